"""[input] select: which echo, b-value, phase or image type of several a Model takes."""

from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import Dataset

from node.core.errors import ConfigError, SeriesRejected
from node.core.model import InputRules
from node.dicom.assemble import Stack, stack
from node.dicom.selection import check_select
from node.inference.description import read_description
from tests.changes import again, setting
from tests.models import make_model, source_of
from tests.series_factory import make_enhanced, make_series

ECHOES = """[input]
select = { EchoTime = { min = 70 } }
"""


def _rules(folder: Path, text: str) -> InputRules:
    (folder / "model.toml").write_text(text, encoding="utf-8")
    return read_description(folder / "model.toml").input.rules()


def _echoes() -> list[Dataset]:
    first = make_series()
    for one in first:
        one.EchoTime = 10.0
    return [*first, *again(first, "second", setting(EchoTime=80.0))]


def _told(made: Stack, keyword: str) -> set[str]:
    return {(plane.traits or {}).get(keyword, "") for plane in made.planes}


def test_the_model_takes_the_echo_that_it_selects(tmp_path: Path) -> None:
    source = source_of(_echoes())
    with pytest.raises(SeriesRejected, match="2 candidate volumes that the Model takes"):
        stack(source, InputRules())
    made = stack(source, _rules(tmp_path, ECHOES))
    assert (len(made.planes), _told(made, "EchoTime")) == (20, {"80.0"})


def test_frames_of_one_image_are_selected_by_the_same_words(tmp_path: Path) -> None:
    frames = [
        one
        for phase in (1, 2)
        for one in again(make_series(), f"{phase}", setting(TemporalPositionIdentifier=phase))
    ]
    rules = _rules(tmp_path, "[input]\nselect = { TemporalPositionIndex = 2 }\n")
    made = stack(source_of([make_enhanced(frames)]), rules)
    assert (len(made.planes), _told(made, "TemporalPositionIndex")) == (20, {"2"})


def test_original_slices_are_selected_beside_reformats_at_the_same_places(tmp_path: Path) -> None:
    change = setting(ImageType=["DERIVED", "SECONDARY", "REFORMATTED"])
    original = make_series()
    for one in original:
        one.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    source = source_of([*original, *again(original[2:9], "mpr", change)])
    rules = _rules(tmp_path, '[input]\nselect = { ImageType = "ORIGINAL" }\n')
    assert len(stack(source, rules).planes) == 20


def test_the_selected_one_is_refused_for_its_own_fault_and_says_what_the_others_are(
    tmp_path: Path,
) -> None:
    instances = _echoes()
    del instances[30]
    with pytest.raises(
        SeriesRejected, match=r'EchoTime is "10\.0", not at least 70 in slice 1 .*unequal spacing'
    ):
        stack(source_of(instances), _rules(tmp_path, ECHOES))


def test_a_slice_that_does_not_say_is_not_selected() -> None:
    instances = make_series()
    for one in instances[:-1]:
        one.EchoTime = 80.0
    with pytest.raises(SeriesRejected, match=r"EchoTime is absent, not \"80\" in slice 20 "):
        stack(source_of(instances), InputRules(select={"EchoTime": 80}))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("select = { EchoTme = 80 }", 'input.select: no volume is selected by "EchoTme"; did you'),
        ("select = { Q = 3 }", 'by "Q"; known: AcquisitionDateTime, Acq'),
        ("select = { ImageType = { min = 1 } }", "holds text .* a range cannot"),
        ("select = { EchoTime = [] }", "the list is empty"),
        ("select = 3", "input.select"),
    ],
)
def test_a_condition_that_can_never_hold_is_refused_at_the_start(
    tmp_path: Path, text: str, sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        _checked(tmp_path, text)


def _checked(folder: Path, text: str) -> None:
    rules = _rules(folder, f"[input]\n{text}\n")
    check_select(replace(make_model(), folder=folder, accepts=rules))
