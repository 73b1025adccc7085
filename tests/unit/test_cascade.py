"""A cascade is two folders: which is the first, and what makes the pair one Model."""

import json
import shutil
from pathlib import Path

import pytest

from node import show
from node.core.errors import ConfigError
from node.core.model import Profile
from node.inference.folder import fingerprint_now
from node.inference.model import load_model
from tests.model_factory import make_cascade, make_model_folder
from tests.spoiled import refusal, set_keys

FIRST = "nnUNetTrainer__nnUNetPlans__3d_lowres"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_cascade(tmp_path_factory.mktemp("cascade"), channels=2)
    make_model_folder(folder.parent / "another", channels=2)  # a 3d_fullres
    return folder


@pytest.fixture
def second(made: Path, tmp_path: Path) -> Path:
    """The second stage's folder in a copy that the test may spoil."""
    return Path(shutil.copytree(made.parent, tmp_path / "made")) / made.name


def test_the_first_stage_lies_beside_the_second_under_nnunets_name(second: Path) -> None:
    model = load_model("m", second)
    first = model.previous_stage
    assert first is not None
    assert (model.configuration, first.configuration) == ("3d_cascade_fullres", "3d_lowres")
    assert first.folder.samefile(second.parent / FIRST)
    assert first.channels == model.channels == ("channel 0", "channel 1")
    assert first.previous_stage is None
    assert "m" in first.name


def test_a_folder_previous_stage_in_the_second_comes_before_the_one_beside(second: Path) -> None:
    (second.parent / FIRST).rename(second / "previous_stage")
    other = make_model_folder(second.parent / FIRST)  # would be refused
    first = load_model("m", second).previous_stage
    assert first is not None
    assert first.folder == second / "previous_stage"
    shutil.rmtree(other)
    renamed = second.rename(second.with_name("colon"))
    assert load_model("m", renamed).previous_stage is not None


def test_a_link_to_the_second_stage_finds_the_first_beside_the_folder_itself(second: Path) -> None:
    link = second.parent / "elsewhere" / "colon"
    link.parent.mkdir()
    link.symlink_to(second)
    assert load_model("m", link).fingerprint == load_model("m", second).fingerprint


def test_a_missing_first_stage_is_refused_with_the_places_where_it_may_lie(second: Path) -> None:
    first = (second.parent / FIRST).resolve()
    shutil.rmtree(first)
    assert refusal(second) == (
        f"{second}: is the second stage of a cascade, and its first, 3d_lowres, is missing; put "
        f"that trained model folder at {second / 'previous_stage'} or at {first}"
    )
    renamed = second.rename(second.with_name("colon"))
    assert refusal(renamed).endswith(f"put that trained model folder at {renamed}/previous_stage")


def test_orientation_and_profile_hold_for_both_stages(second: Path) -> None:
    model = load_model("m", second, "LPS", Profile.FAST)
    first = model.previous_stage
    assert first is not None
    assert (model.orientation, first.orientation) == ("LPS", "LPS")
    assert (model.profile, first.profile) == (Profile.FAST, Profile.FAST)
    (second.parent / FIRST / "model.toml").write_text('profile = "fastest"')
    first = load_model("m", second).previous_stage
    assert first is not None
    assert first.profile is Profile.EXACT


def test_stages_that_contradict_each_other_about_orientation_are_refused(second: Path) -> None:
    said = second.parent / FIRST / "model.toml"
    said.write_text('orientation = "LPS"')
    message = refusal(second)
    assert f'{said.resolve()}: "orientation" is LPS, but {second} is run with RAS' in message
    assert load_model("m", second, "LPS").orientation == "LPS"


def test_the_fingerprint_covers_the_first_stage(second: Path) -> None:
    before = load_model("m", second)
    assert fingerprint_now(before) == before.fingerprint
    set_keys(second.parent / FIRST / "plans.json", comment="x")
    after = load_model("m", second)
    assert before.fingerprint != after.fingerprint == fingerprint_now(before)
    assert after.version == after.fingerprint[:12]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("labels", {"background": 0, "two": 1, "one": 2}),
        ("labels", {"background": 0, "one": 1}),
        ("channel_names", {"0": "channel 1", "1": "channel 0"}),
        ("channel_names", {"0": "channel 0"}),
    ],
)
def test_stages_of_two_datasets_are_refused(second: Path, key: str, value: object) -> None:
    path = (second.parent / FIRST / "dataset.json").resolve()
    set_keys(path, **{key: value})
    assert f'{path}: "{key}" is not that of {second / "dataset.json"}' in refusal(second)


def test_a_first_stage_of_another_configuration_is_refused(second: Path) -> None:
    shutil.copytree(second.parent / "another", second / "previous_stage")
    assert refusal(second) == (
        f"{second / 'previous_stage'}: was trained as 3d_fullres, but the second stage in "
        f"{second} needs 3d_lowres"
    )


def test_a_first_stage_that_follows_another_is_refused_and_so_is_a_circle(second: Path) -> None:
    first = second.parent / FIRST
    stages = json.loads((first / "plans.json").read_text())["configurations"]
    stages["3d_lowres"]["previous_stage"] = "2d"
    set_keys(first / "plans.json", configurations=stages)
    assert "follows 2d itself; a cascade has two stages" in refusal(second)
    (second / "previous_stage").symlink_to(second)
    assert "follows 3d_lowres itself; a cascade has two stages" in refusal(second)


@pytest.mark.parametrize("wanted", ["../3d_lowres", "/3d_lowres", "", 5, ["3d_lowres"]])
def test_a_previous_stage_that_is_no_name_is_refused(second: Path, wanted: object) -> None:
    stages = json.loads((second / "plans.json").read_text())["configurations"]
    stages["3d_cascade_fullres"]["previous_stage"] = wanted
    set_keys(second / "plans.json", configurations=stages)
    with pytest.raises(ConfigError, match=r'plans\.json: "previous_stage" must name a config'):
        load_model("m", second)


def test_models_list_shows_where_the_first_stage_lies(second: Path) -> None:
    model = load_model("m", second)
    first = str((second.parent / FIRST).resolve())
    assert f"  first stage  {first}" in show.model_lines(model)
    assert show.model_values(model)["previous_stage"] == first
