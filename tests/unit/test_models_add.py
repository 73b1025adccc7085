import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from node.cli import app
from node.core.anatomy import TISSUE
from node.core.errors import ConfigError
from node.inference.adding.add import add_model, slug
from node.inference.adding.weights import write_checkpoint
from node.inference.checkpoint import trained_configuration
from node.inference.model import load_model
from node.inference.network import Checkpoint, read_checkpoint
from tests.adding import refusal, zipped
from tests.model_factory import make_cascade, make_model_folder

ROOT = Path(__file__).parents[2]
NAMED = "Dataset297_TotalSegmentator_total_3mm_1559subj"
TRAINED = "nnUNetTrainer__nnUNetPlans__3d_fullres"
LABELS = {"background": 0, "kidney_right": 1, "mystery": 2, "heart_atrium_left": 3}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder as TotalSegmentator has it: Dataset…/Trainer__Plans__configuration/."""
    home = tmp_path_factory.mktemp("results")
    folder = make_model_folder(
        home / NAMED / TRAINED, labels=LABELS, folds=("0", "1"), mirrors=(0, 2)
    )
    change(folder / "plans.json", dataset_name=NAMED)
    (folder / "fold_0" / "progress.png").write_text("not needed")
    return home


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    """The data folder, for a test that spoils it."""
    return Path(shutil.copytree(made, tmp_path / "results"))


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "node" / "models"


def change(path: Path, **keys: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


def configure(folder: Path, **keys: Any) -> None:
    """Sets keys of the one configuration in plans.json; a key set to None goes."""
    plans = json.loads((folder / "plans.json").read_text())
    settings = {**plans["configurations"]["3d_fullres"], **keys}
    settings = {key: value for key, value in settings.items() if value is not None}
    change(folder / "plans.json", configurations={"3d_fullres": settings})


def retrain(folder: Path, **keys: Any) -> None:
    """Sets keys of every checkpoint."""
    for path in folder.glob("fold_*/checkpoint_final.pth"):
        torch.save({**torch.load(path, weights_only=False), **keys}, path)


def require_same_weights(source: Path, added: Path) -> None:
    before, after = read_checkpoint(source), read_checkpoint(added)
    assert (after.mirror_axes, after.trainer) == (before.mirror_axes, before.trainer)
    assert after.weights.keys() == before.weights.keys()
    for name, tensor in before.weights.items():
        assert after.weights[name].dtype == tensor.dtype
        assert torch.equal(after.weights[name], tensor), name


# what is written


def test_a_folder_becomes_a_model_with_the_same_weights(made: Path, models: Path) -> None:
    source, added = made / NAMED / TRAINED, add_model(made / NAMED / TRAINED, models)
    folder = models / "totalsegmentator_total_3mm"
    assert (added.model.folder, added.architecture) == (folder, "PlainConvUNet")
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    assert files == [
        "dataset.json",
        "fold_0/checkpoint_final.safetensors",
        "fold_1/checkpoint_final.safetensors",
        "model.toml",
        "plans.json",
    ]
    assert [path.name for path in models.iterdir()] == [folder.name]
    for fold in ("fold_0", "fold_1"):
        written = folder / fold / "checkpoint_final.safetensors"
        require_same_weights(source / fold / "checkpoint_final.pth", written)
        assert written.stat().st_mode == (folder / "plans.json").stat().st_mode
    for name in ("plans.json", "dataset.json"):
        assert (folder / name).read_bytes() == (source / name).read_bytes()


def test_what_is_added_loads_as_it_was_announced(made: Path, models: Path) -> None:
    added = add_model(made, models, "kidneys").model
    loaded = load_model("kidneys", models / "kidneys")
    assert loaded == added
    assert (loaded.configuration, loaded.folds) == ("3d_fullres", ("0", "1"))
    assert loaded.checkpoint_name == "checkpoint_final.safetensors"
    assert (loaded.title, loaded.version) == ("TotalSegmentator total 3mm", "1")


def test_the_same_model_has_the_same_fingerprint_wherever_it_comes_from(
    made: Path, models: Path, tmp_path: Path
) -> None:
    archive = zipped(made, tmp_path / "export.zip")
    sources = [made, made / NAMED, archive, archive / NAMED / TRAINED, models / "m0"]
    marks = [
        add_model(source, models, f"m{number}").model.fingerprint
        for number, source in enumerate(sources)
    ]
    assert len(set(marks)) == 1
    assert sorted(path.name for path in models.iterdir()) == ["m0", "m1", "m2", "m3", "m4"]


def test_a_zip_of_the_folder_alone_will_do(made: Path, models: Path, tmp_path: Path) -> None:
    archive = zipped(made / NAMED / TRAINED, tmp_path / "flat.zip")
    assert add_model(archive, models).model.folds == ("0", "1")


def test_safetensors_come_before_pth_and_final_before_best(made: Path, models: Path) -> None:
    folder = add_model(made, models, "m").model.folder
    for fold in ("fold_0", "fold_1"):
        shutil.copy(made / NAMED / TRAINED / fold / "checkpoint_final.pth", folder / fold)
    assert load_model("m", folder).checkpoint_name == "checkpoint_final.safetensors"


def test_the_best_checkpoint_keeps_its_name(home: Path, models: Path) -> None:
    for path in home.rglob("checkpoint_final.pth"):
        path.rename(path.with_name("checkpoint_best.pth"))
    assert add_model(home, models).model.checkpoint_name == "checkpoint_best.safetensors"


def test_odd_tensors_come_back_bit_for_bit(tmp_path: Path) -> None:
    weights = {
        "half": torch.randn(3, 4).to(torch.bfloat16),
        "nan": torch.tensor([float("nan"), -0.0]),
        "zero": torch.tensor([float("nan"), 0.0]),
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "turned": torch.randn(4, 3).T,
    }
    weights["again"] = weights["half"]
    path = tmp_path / "checkpoint_final.safetensors"
    write_checkpoint(path, Checkpoint(weights, None, "T"), "3d_fullres")
    found = read_checkpoint(path)
    assert (found.mirror_axes, found.trainer) == (None, "T")
    assert trained_configuration(path) == "3d_fullres"
    assert found.weights.keys() == weights.keys()
    for name, tensor in weights.items():
        other = found.weights[name]
        assert (other.dtype, other.shape) == (tensor.dtype, tensor.shape)
        bits = [t.contiguous().flatten().view(torch.uint8) for t in (other, tensor)]
        assert torch.equal(*bits), name


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "unpack requires"),
        (b"\xff" * 8, "its header claims"),
        (b"\x02" + b"\0" * 7 + b"{}", "__metadata__"),
        (b"\x02" + b"\0" * 7 + b"[]", "list indices"),
    ],
)
def test_a_broken_safetensors_file_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "checkpoint_final.safetensors"
    path.write_bytes(content)
    for read in (trained_configuration, read_checkpoint):
        with pytest.raises(ConfigError, match=said) as caught:
            read(path)
        assert str(path) in str(caught.value)


def test_a_cut_safetensors_file_is_damaged(made: Path, models: Path) -> None:
    path = add_model(made, models, "m").model.folder / "fold_0" / "checkpoint_final.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ConfigError, match=r"is damaged: .* add the model again"):
        read_checkpoint(path)


# model.toml


def test_codes_are_guessed_and_say_so(made: Path, models: Path) -> None:
    kidney, mystery, atrium = add_model(made, models, "m").model.segments
    assert (kidney.type.value, kidney.type.meaning) == ("64033007", "Kidney")
    assert kidney.laterality is not None
    assert kidney.laterality.value == "24028007"
    assert (atrium.type.value, atrium.laterality) == ("82471001", None)
    assert (kidney.guessed, mystery.guessed, atrium.guessed) == (True, False, True)
    assert (mystery.label, mystery.type) == ("mystery", TISSUE)
    text = (models / "m" / "model.toml").read_text()
    assert text.count("# guessed from the label's name; check it") == 2
    assert "# mystery: no code is known for this name; it is written as Tissue" in text


def test_a_code_is_no_guess_once_the_line_is_gone(made: Path, models: Path) -> None:
    path = add_model(made, models, "m").model.folder / "model.toml"
    path.write_text(path.read_text().replace("guessed = true\n", "", 1))
    assert [s.guessed for s in load_model("m", path.parent).segments] == [False, False, True]


def test_an_orientation_that_nobody_said_is_explained_and_left_open(
    home: Path, models: Path
) -> None:
    assumed = add_model(home, models, "m").model
    assert assumed.orientation_assumed
    assert '# orientation = "RAS"' in (models / "m" / "model.toml").read_text()
    change(home / NAMED / TRAINED / "plans.json", image_reader_writer="NibabelIOWithReorient")
    known = add_model(home, models, "known").model
    assert (known.orientation, known.orientation_assumed) == ("RAS", False)
    assert "NibabelIOWithReorient" in (models / "known" / "model.toml").read_text()


@pytest.mark.parametrize(
    ("channels", "modalities"),
    [({"0": "CT"}, ("CT",)), ({"0": "MRI"}, ("MR",)), ({"0": "T1"}, ())],
)
def test_the_modality_is_guessed_from_the_channels(
    home: Path, models: Path, channels: dict[str, str], modalities: tuple[str, ...]
) -> None:
    change(home / NAMED / TRAINED / "dataset.json", channel_names=channels)
    assert add_model(home, models).model.accepts.modalities == modalities


def test_a_description_that_comes_with_the_model_is_kept(home: Path, models: Path) -> None:
    (home / NAMED / TRAINED / "model.toml").write_text('name = "Theirs"\norientation = "LPS"\n')
    added = add_model(home, models, "m")
    assert (added.drafted, added.model.title) == (False, "Theirs")
    kept = (models / "m" / "model.toml").read_text()
    assert kept == 'name = "Theirs"\norientation = "LPS"\n'


def test_names_that_toml_must_quote_survive_the_draft(home: Path, models: Path) -> None:
    names = ['a "b" \\ c', "лёгкое", "line\nbreak", "dot.ted", "[x]"]
    labels = {"background": 0, **{name: number + 1 for number, name in enumerate(names)}}
    folder = make_model_folder(home / "odd" / TRAINED, labels=labels)
    change(folder / "plans.json", dataset_name='Dataset1_"odd"\\\n')
    model = add_model(folder, models).model
    assert (model.name, model.title) == ("odd", '"odd"')
    assert [segment.label for segment in model.segments] == names


def test_names_of_datasets_become_names_of_models() -> None:
    assert slug(NAMED) == "totalsegmentator_total_3mm"
    assert slug("Dataset004_Hippocampus") == "hippocampus"
    assert slug("../..") == "model"


# cascades


@pytest.fixture(scope="module")
def cascade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_cascade(tmp_path_factory.mktemp("cascade") / "Dataset005_Twice")


@pytest.mark.parametrize("packed", [False, True])
def test_a_cascade_takes_its_first_stage_along(
    cascade: Path, models: Path, tmp_path: Path, packed: bool
) -> None:
    home = cascade.parent.parent
    archive = zipped(home, tmp_path / "export.zip") / cascade.relative_to(home)
    model = add_model(archive if packed else cascade, models, "twice").model
    assert model.configuration == "3d_cascade_fullres"
    assert model.previous_stage is not None
    assert model.previous_stage.folder == models / "twice" / "previous_stage"
    assert model == load_model("twice", models / "twice")
    first = "fold_0/checkpoint_final"
    before = cascade.with_name("nnUNetTrainer__nnUNetPlans__3d_lowres") / f"{first}.pth"
    require_same_weights(before, model.previous_stage.folder / f"{first}.safetensors")
    again = add_model(models / "twice", models, "again").model
    assert again.fingerprint == model.fingerprint


def test_a_cascade_without_its_first_stage_is_refused(
    cascade: Path, models: Path, tmp_path: Path
) -> None:
    alone = shutil.copytree(cascade, tmp_path / "alone" / cascade.name)
    said = "is the second stage of a cascade, and its first, 3d_lowres"
    assert said in refusal(Path(alone), models)
    assert said in refusal(zipped(tmp_path / "alone", tmp_path / "alone.zip"), models)


# refusals


def _spoil(**keys: Any) -> Callable[[Path], None]:
    return lambda folder: configure(folder, **keys)


def _other_trainer(folder: Path) -> None:
    retrain(folder, trainer_name="nnUNetTrainerMine", network_weights={"w": torch.zeros(2)})


def _hostile_pickle(folder: Path) -> None:
    retrain(folder, logging=Path("x"))


def _other_network(folder: Path) -> None:
    plans = json.loads((folder / "plans.json").read_text())
    architecture = plans["configurations"]["3d_fullres"]["architecture"]
    configure(folder, architecture={**architecture, "network_class_name": "os.system"})


def _no_segmentation(folder: Path) -> None:
    name = "torch.nn.modules.container.Sequential"
    configure(
        folder,
        architecture={"network_class_name": name, "arch_kwargs": {}, "_kw_requires_import": []},
    )


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_spoil(normalization_schemes=["MyNormalization"]), "MyNormalization is not known here"),
        (_spoil(preprocessor_name="MyPreprocessor"), "MyPreprocessor is not known here"),
        (_spoil(resampling_fn_data="my_resampling"), "my_resampling is not known here"),
        (_spoil(resampling_fn_probabilities="mine"), "mine is not known here"),
        (
            _spoil(resampling_fn_probabilities="no_resampling_hack"),
            "images are resampled and logits are not (no_resampling_hack): the labels would lie "
            "on another grid than the images",
        ),
        (
            lambda folder: change(folder / "plans.json", label_manager="MyLabels"),
            '"label_manager": MyLabels is not known here',
        ),
        (_other_network, "the architecture names 'os.system'"),
        (_no_segmentation, "describes no network"),
        (_other_trainer, "the trainer nnUNetTrainerMine probably builds a network of its own"),
        (_hostile_pickle, "it holds more than weights and numbers"),
        (_spoil(patch_size=[15, 16, 16]), "cannot be run on its patch size (15, 16, 16)"),
        (
            lambda folder: change(folder / "dataset.json", labels={"background": 0, "far": 7}),
            "without a gap",
        ),
        (lambda folder: (folder / "plans.json").write_text("{"), "is not JSON"),
        (lambda folder: (folder / "plans.json").write_text("[" * 100_000), "is not JSON"),
        (
            lambda folder: change(folder / "dataset.json", labels={"background": 0, "\ud800": 1}),
            "is not JSON: 'utf-8' codec can't encode character '\\ud800'",
        ),
    ],
)
def test_what_cannot_be_run_is_refused_with_the_reason(
    home: Path, models: Path, spoil: Callable[[Path], None], said: str
) -> None:
    spoil(home / NAMED / TRAINED)
    assert said in refusal(home, models)
    assert not models.exists() or not list(models.iterdir())


def test_several_models_are_listed_and_one_of_them_can_be_named(
    home: Path, models: Path, tmp_path: Path
) -> None:
    shutil.copytree(home / NAMED / TRAINED, home / NAMED / "nnUNetTrainer__Other__3d_fullres")
    archive = zipped(home, tmp_path / "export.zip")
    for source in (home, archive):
        message = refusal(source, models)
        assert "holds 2 trained models; name one:" in message
        assert str(source / NAMED / TRAINED) in message
        add_model(source / NAMED / TRAINED, models, f"from_{source.name[:6]}")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.mkdir(), "there is no trained nnU-Net v2 model in it"),
        (lambda path: path.write_text("x"), "is neither a folder nor a zip"),
        (lambda path: None, "there is no such folder or zip"),
    ],
)
def test_what_holds_no_model_is_refused(
    tmp_path: Path, models: Path, make: Callable[[Path], object], said: str
) -> None:
    make(tmp_path / "source")
    assert said in refusal(tmp_path / "source", models)


def test_models_of_nnunet_v1_are_told_apart(tmp_path: Path, models: Path) -> None:
    (tmp_path / "source" / "fold_0").mkdir(parents=True)
    (tmp_path / "source" / "plans.pkl").write_text("x")
    assert "is an nnU-Net v1 model" in refusal(tmp_path / "source", models)


def test_nothing_is_overwritten(made: Path, models: Path) -> None:
    (models / "m").mkdir(parents=True)
    add_model(made, models, "m")  # an empty folder is no loss
    before = load_model("m", models / "m").fingerprint
    assert "is already there, and nothing is overwritten" in refusal(made, models, name="m")
    assert load_model("m", models / "m").fingerprint == before
    assert '"../m" cannot name a model' in refusal(made, models, name="../m")


# killed, and out of space

LIMITED = """
import resource, signal, sys
from pathlib import Path
from node.core.errors import ConfigError
from node.inference.adding.add import add_model
signal.signal(signal.SIGXFSZ, signal.SIG_DFL if sys.argv[3] == "killed" else signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # less than one fold's weights
try:
    add_model(Path(sys.argv[1]), Path(sys.argv[2]), "m")
except ConfigError as error:
    print(error)
"""


def limited(made: Path, models: Path, how: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", LIMITED, str(made), str(models), how],
        cwd=ROOT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_killed_half_way_nothing_has_the_final_name_and_it_can_be_done_again(
    made: Path, models: Path
) -> None:
    assert limited(made, models, "killed").returncode == -signal.SIGXFSZ
    assert [path.name for path in models.iterdir()] == [".m.part"]
    add_model(made, models, "m")
    assert [path.name for path in models.iterdir()] == ["m"]


def test_a_full_disk_is_a_sentence_and_leaves_nothing(made: Path, models: Path) -> None:
    done = limited(made, models, "refused")
    assert "cannot be written" in done.stdout, done.stderr
    assert list(models.iterdir()) == []


AT_ONCE = """
import sys
from pathlib import Path
from node.core.errors import ConfigError
from node.inference.adding.add import add_model
import node.inference.adding.runnable, node.inference.adding.weights  # now, not when it counts
print("ready", flush=True)
sys.stdin.readline()
try:
    add_model(Path(sys.argv[1]), Path(sys.argv[2]), "m")
    print("added")
except ConfigError as error:
    print(error)
"""


def test_of_two_that_add_one_name_at_once_one_is_refused_and_the_other_is_whole(
    made: Path, models: Path
) -> None:
    command = [sys.executable, "-c", AT_ONCE, str(made), str(models)]
    pipe = subprocess.PIPE
    both = [
        subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        for _ in range(2)
    ]
    for one in both:
        assert one.stdout
        assert one.stdout.readline() == "ready\n"
    for one in both:
        assert one.stdin
        one.stdin.write("\n")
        one.stdin.flush()
    said = sorted("".join(one.communicate(timeout=120)) for one in both)
    assert [text == "added\n" for text in said].count(True) == 1, said
    assert (
        "is being added by another" in said[0] + said[1] or "is already there" in said[0] + said[1]
    )
    assert [path.name for path in models.iterdir()] == ["m"]
    alone = add_model(made, models, "alone").model
    assert load_model("m", models / "m").fingerprint == alone.fingerprint


# the command


def test_the_command_tells_what_to_check_and_what_to_write_where(
    made: Path, tmp_path: Path
) -> None:
    config = tmp_path / "node.toml"
    done = CliRunner().invoke(app, ["models", "add", str(made), "--name", "k", "-c", str(config)])
    assert done.exit_code == 0, done.output
    for line in (
        "2 folds",
        "orientation: nobody says how the training arrays lay; RAS is assumed",
        "codes guessed from names (2): kidney_right, heart_atrium_left",
        "without a code, written as Tissue (1): mystery",
        'path = "models/k"',
        "[[routes]]",
        "Research use; not a medical device.",
    ):
        assert line in done.output
    config.write_text('[models.k]\npath = "models/k"\n')
    listed = CliRunner().invoke(app, ["models", "list", "-c", str(config)])
    mark = load_model("k", tmp_path / "models" / "k").fingerprint
    assert mark in listed.output
    assert mark in done.output
    assert "2 codes are guesses; check them in model.toml" in listed.output


def test_another_folder_can_be_given(made: Path, tmp_path: Path) -> None:
    to = tmp_path / "elsewhere" / "deep"
    done = CliRunner().invoke(app, ["models", "add", str(made), "--to", str(to)])
    assert done.exit_code == 0, done.output
    assert load_model("m", to).folds == ("0", "1")
    assert f'path = "{to}"' in done.output
