import json
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from node.core.anatomy import TISSUE, Code
from node.core.errors import ConfigError
from node.core.model import InputRules
from node.inference.labels import default_colour
from node.inference.model import load_model
from tests.model_factory import make_model_folder
from tests.spoiled import refusal, set_keys

MODEL_TOML = """
name = "Hippocampus"
version = "2.1"
orientation = "lps"

[input]
modality = ["MR"]
min_slices = 16
spacing_mm = { min = 0.4, max = 2.0 }

[segments.one]
label = "Anterior"
category = { value = "123037004", scheme = "SCT", meaning = "Anatomical Structure" }
type = { value = "10200004", scheme = "SCT", meaning = "Liver" }
laterality = { value = "7771000", scheme = "SCT", meaning = "Left" }
colour = "#10a0Ff"
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("models") / "made")


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A model folder that the test may spoil."""
    return Path(shutil.copytree(made, tmp_path / "Trainer__Plans__3d_fullres"))


def test_a_folder_as_training_left_it_needs_no_model_toml(folder: Path) -> None:
    model = load_model("m", folder)
    assert (model.name, model.title, model.configuration) == (
        "m",
        "Dataset999_Random",
        "3d_fullres",
    )
    assert (model.folds, model.checkpoint_name) == (("0",), "checkpoint_final.pth")
    assert model.channels == ("channel 0",)
    assert model.accepts == InputRules()
    assert [(s.number, s.label) for s in model.segments] == [(1, "one"), (2, "two")]
    assert {(s.category, s.type) for s in model.segments} == {(TISSUE, TISSUE)}
    assert model.version == model.fingerprint[:12]


def test_model_toml_says_what_training_does_not_record(folder: Path) -> None:
    (folder / "model.toml").write_text(MODEL_TOML)
    model = load_model("m", folder)
    assert (model.title, model.version, model.orientation) == ("Hippocampus", "2.1", "LPS")
    assert model.accepts == InputRules(("MR",), 16, 0.4, 2.0)
    anterior, two = model.segments
    assert (anterior.number, anterior.label, anterior.colour) == (1, "Anterior", (16, 160, 255))
    assert anterior.type == Code("10200004", "SCT", "Liver")
    assert anterior.laterality == Code("7771000", "SCT", "Left")
    assert anterior.region is None
    assert (two.label, two.type) == ("two", TISSUE)


@pytest.mark.parametrize(
    ("line", "instead", "said"),
    [
        (
            "min_slices",
            "min_slice",
            '"input.min_slice" is not a setting; did you mean "min_slices"',
        ),
        ("colour =", "color =", '"segments.one.color" is not a setting; did you mean "colour"'),
        ("scheme", "schema", '"segments.one.category.schema" is not a setting; did you mean "sch'),
        (
            "[segments.one]",
            "[segments.onne]",
            '"segments.onne": the model has no label "onne"; did',
        ),
        ("#10a0Ff", "blue", '"segments.one.colour"'),
        ("min = 0.4", "min = 4.0", "min 4.0 is greater than max 2.0"),
        ('"lps"', '"LPP"', '"LPP" is not an orientation'),
        ('value = "10200004", ', "", '"segments.one.type.value" is missing'),
        ('name = "Hipp', 'name = Hipp"', "is not TOML"),
    ],
)
def test_a_mistake_in_model_toml_is_refused_by_file_and_key(
    folder: Path, line: str, instead: str, said: str
) -> None:
    (folder / "model.toml").write_text(MODEL_TOML.replace(line, instead))
    message = refusal(folder)
    assert str(folder / "model.toml") in message
    assert said in message


def test_the_orientation_is_said_by_the_argument_then_the_file_then_the_reader(
    folder: Path,
) -> None:
    assumed = load_model("m", folder)
    assert (assumed.orientation, assumed.orientation_assumed) == ("RAS", True)
    set_keys(folder / "plans.json", image_reader_writer="NibabelIOWithReorient")
    recorded = load_model("m", folder)
    assert (recorded.orientation, recorded.orientation_assumed) == ("RAS", False)
    (folder / "model.toml").write_text('orientation = "LPS"')
    assert load_model("m", folder).orientation == "LPS"
    overridden = load_model("m", folder, "native")
    assert (overridden.orientation, overridden.orientation_assumed) == ("native", False)
    with pytest.raises(ConfigError, match='model "m": orientation: "up" is not an orientation'):
        load_model("m", folder, "up")


def test_the_fingerprint_changes_with_whatever_shapes_the_answer_and_nothing_else(
    folder: Path, tmp_path: Path
) -> None:
    def mark(at: Path = folder, orientation: str | None = None) -> str:
        return load_model("m", at, orientation).fingerprint

    marks = [mark()]
    assert mark(Path(shutil.copytree(folder, tmp_path / "elsewhere"))) == marks[0]
    (folder / "progress.png").write_text("not read")
    assert mark() == marks[0]
    marks.append(mark(orientation="LPS"))
    (folder / "model.toml").write_text('name = "x"')
    marks.append(mark())
    set_keys(folder / "plans.json", comment="x")
    marks.append(mark())
    set_keys(folder / "dataset.json", comment="x")
    marks.append(mark())
    with zipfile.ZipFile(folder / "fold_0" / "checkpoint_final.pth", "a") as archive:
        archive.writestr("more", "x")
    marks.append(mark())
    shutil.copytree(folder / "fold_0", folder / "fold_1")
    marks.append(mark())
    assert len(set(marks)) == len(marks)


def test_all_numbered_folds_are_used_and_fold_all_only_without_them(folder: Path) -> None:
    for name in ("fold_10", "fold_2", "fold_all"):
        shutil.copytree(folder / "fold_0", folder / name)
    (folder / "fold_3").mkdir()  # training did not finish there
    assert load_model("m", folder).folds == ("0", "2", "10")
    for name in ("fold_0", "fold_2", "fold_10"):
        shutil.rmtree(folder / name)
    assert load_model("m", folder).folds == ("all",)


def test_the_best_checkpoint_serves_where_there_is_no_final_one(folder: Path) -> None:
    fold = folder / "fold_0"
    (fold / "checkpoint_final.pth").rename(fold / "checkpoint_best.pth")
    assert load_model("m", folder).checkpoint_name == "checkpoint_best.pth"


@pytest.mark.parametrize("name", ["plans.json", "dataset.json"])
def test_a_missing_or_broken_file_is_named(folder: Path, name: str) -> None:
    (folder / name).write_text("{")
    assert f"{folder / name}: is not JSON" in refusal(folder)
    (folder / name).unlink()
    assert f"{folder / name}: cannot be read: No such file" in refusal(folder)


def test_a_folder_without_folds_is_not_a_model(folder: Path) -> None:
    shutil.rmtree(folder / "fold_0")
    assert f"{folder}: there is no fold_0" in refusal(folder)
    assert "is not a folder" in refusal(folder / "nowhere")


def test_a_second_stage_is_found_also_where_that_is_inherited(folder: Path) -> None:
    plans = json.loads((folder / "plans.json").read_text())["configurations"]
    base = {**plans["3d_fullres"], "previous_stage": "3d_lowres"}
    set_keys(
        folder / "plans.json",
        configurations={"base": base, "3d_fullres": {"inherits_from": "base"}},
    )
    assert "second stage of a cascade, and its first, 3d_lowres, is missing" in refusal(folder)


def test_a_configuration_that_the_plans_lack_is_named(folder: Path) -> None:
    set_keys(folder / "plans.json", configurations={"2d": {}})
    assert 'there is no configuration "3d_fullres"' in refusal(folder)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"labels": {"one": 1}}, '"labels" has no "background" = 0'),
        ({"labels": {"0": "background", "1": "one"}}, '"labels" has no "background" = 0'),
        ({"labels": {"background": 0}}, "nothing but background"),
        ({"labels": {"background": 0, "one": 1, "far": 7}}, "without a gap"),
        ({"labels": {"background": 0, "one": "first"}}, "more than whole numbers"),
        ({"labels": {"background": 0, "a" * 65: 1}}, "longer than 64 characters"),
        ({"labels": {"background": 0, "a": [1, 2], "b": 2}}, "each of the 2 regions a number"),
        ({"channel_names": {"1": "T1"}}, '"channel_names" must name the channels'),
    ],
)
def test_labels_that_contradict_themselves_are_refused(
    folder: Path, keys: dict[str, Any], said: str
) -> None:
    set_keys(folder / "dataset.json", **keys)
    message = refusal(folder)
    assert str(folder / "dataset.json") in message
    assert said in message


def test_regions_are_numbered_as_they_are_painted_and_covered_ones_are_the_rest(
    folder: Path,
) -> None:
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": [3], "ignore": 4}
    set_keys(folder / "dataset.json", labels=labels, regions_class_order=[1, 3, 2])
    found = [(s.number, s.label, s.covered) for s in load_model("m", folder).segments]
    assert found == [(1, "whole (rest)", True), (2, "enhancing", False), (3, "core (rest)", True)]


def test_region_numbers_that_nnunet_would_cut_to_eight_bits_are_refused(folder: Path) -> None:
    labels = {"background": 0, "whole": [1, 2], "core": [2]}
    set_keys(folder / "dataset.json", labels=labels, regions_class_order=[1, 300])
    assert "300 does not fit" in refusal(folder)


def test_default_colours_are_all_different() -> None:
    assert len({default_colour(number) for number in range(1, 256)}) == 255


def test_a_checkpoint_that_would_run_code_is_refused_and_runs_nothing(
    folder: Path, tmp_path: Path
) -> None:
    mark = tmp_path / "was run"

    class Hostile:
        def __reduce__(self) -> Any:
            return Path.touch, (mark,)

    with zipfile.ZipFile(folder / "fold_0" / "checkpoint_final.pth", "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps({"network_weights": Hostile()}))
    assert "is not an nnU-Net v2 checkpoint" in refusal(folder)
    assert not mark.exists()


def test_a_damaged_checkpoint_is_named(folder: Path) -> None:
    path = folder / "fold_0" / "checkpoint_final.pth"
    path.write_bytes(path.read_bytes()[:5000])
    assert f"{path}: is not an nnU-Net v2 checkpoint" in refusal(folder)


def test_loading_a_model_and_making_an_engine_imports_no_torch(folder: Path) -> None:
    program = f"""
import sys
from pathlib import Path
from node.inference.engine import InProcessEngine, WorkerEngine
from node.inference.model import load_model
WorkerEngine({{"m": load_model("m", Path({str(folder)!r}))}})
InProcessEngine()
print([name for name in ("torch", "nnunetv2", "scipy", "SimpleITK") if name in sys.modules])
"""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


def test_the_real_model_loads(shared_models: Path) -> None:
    model = load_model("hippocampus", shared_models / "hippocampus")
    assert (model.configuration, model.folds, model.channels) == ("3d_fullres", ("0",), ("MRI",))
    assert [s.label for s in model.segments] == ["Anterior", "Posterior"]
    assert model.orientation_assumed
