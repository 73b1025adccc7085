"""How exactly a Model is run: who says it, what it makes of the fingerprint, where it is said."""

import pickle
import zipfile
from pathlib import Path

import pytest

from node import checks, show
from node.configured.models import models_of
from node.core import config
from node.core.errors import ConfigError
from node.core.model import Profile
from node.inference.folder import fingerprint_now
from node.inference.model import load_model
from tests.command import segnode


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder of which every byte is known."""
    fold = tmp_path / "Trainer__Plans__3d_fullres" / "fold_0"
    fold.mkdir(parents=True)
    dataset = '{"channel_names": {"0": "MRI"}, "labels": {"background": 0, "one": 1}}'
    (fold.parent / "plans.json").write_text('{"configurations": {"3d_fullres": {}}}')
    (fold.parent / "dataset.json").write_text(dataset)
    header = pickle.dumps({"init_args": {"configuration": "3d_fullres"}}, protocol=2)
    with zipfile.ZipFile(fold / "checkpoint_final.pth", "w") as archive:
        archive.writestr(zipfile.ZipInfo("x/data.pkl"), header)
    return fold.parent


def write_config(folder: Path, *profiles: str | None) -> Path:
    """A node.toml with one model for each profile, all in `folder`."""
    path = folder.parent / "node.toml"
    tables = [
        f'[models.m{number}]\npath = "{folder}"\n' + (f'profile = "{profile}"\n' if profile else "")
        for number, profile in enumerate(profiles)
    ]
    path.write_text("\n".join(tables))
    return path


def test_the_fingerprint_of_an_exact_model_is_what_it_always_was(folder: Path) -> None:
    """The UIDs of every result that was ever delivered come from it."""
    known = "0707a7a56dbef03d92e52f29c4fb79f0eb30645ed693ecf040b39fa87e8ac6fb"
    assert load_model("m", folder).fingerprint == known
    assert load_model("m", folder, profile=Profile.EXACT).fingerprint == known


def test_each_profile_has_a_fingerprint_of_its_own(folder: Path) -> None:
    models = [load_model("m", folder, profile=profile) for profile in Profile]
    assert len({model.fingerprint for model in models}) == len(Profile)
    assert [fingerprint_now(model) for model in models] == [m.fingerprint for m in models]
    assert load_model("another", folder, profile=Profile.FAST).fingerprint == models[1].fingerprint


def test_a_changed_file_shows_in_the_fingerprint_of_now(folder: Path) -> None:
    model = load_model("m", folder, profile=Profile.FAST)
    (folder / "plans.json").write_text('{"configurations": {"3d_fullres": {}}} ')
    assert fingerprint_now(model) != model.fingerprint


def test_the_profile_is_said_by_the_argument_then_the_file_and_else_exact(folder: Path) -> None:
    assert load_model("m", folder).profile is Profile.EXACT
    (folder / "model.toml").write_text('profile = "fast"')
    assert load_model("m", folder).profile is Profile.FAST
    assert load_model("m", folder, profile=Profile.EXACT).profile is Profile.EXACT
    assert load_model("m", folder, profile=Profile.FASTEST).profile is Profile.FASTEST


def test_an_unknown_profile_is_refused_with_file_key_and_choices(folder: Path) -> None:
    said = "\"{}\": input should be 'exact', 'fast' or 'fastest', not 'quick'"
    path = write_config(folder, "quick")
    with pytest.raises(ConfigError) as refused:
        config.load(path)
    assert str(refused.value) == f"{path}: {said.format('models.m0.profile')}"
    (folder / "model.toml").write_text('profile = "quick"')
    with pytest.raises(ConfigError) as refused:
        load_model("m", folder)
    assert str(refused.value) == f"{folder / 'model.toml'}: {said.format('profile')}"


def test_the_configuration_overrides_model_toml_and_may_name_a_folder_once_a_profile(
    folder: Path,
) -> None:
    (folder / "model.toml").write_text('profile = "fast"')
    models = models_of(config.load(write_config(folder, "exact", "fastest", None)))
    assert [m.profile for m in models.values()] == [Profile.EXACT, Profile.FASTEST, Profile.FAST]
    with pytest.raises(ConfigError, match=r"models\.m1: is the same model as models\.m0"):
        models_of(config.load(write_config(folder, None, "fast")))


def test_check_says_which_model_does_not_run_exact(folder: Path) -> None:
    loaded = config.load(write_config(folder, "exact", "fastest"))
    said = [f for f in checks.check(loaded) if "does not run exact" in f.sentence]
    assert [(f.verdict, f.subject) for f in said] == [("note", "model m1")]
    assert "profile fastest" in said[0].sentence


def test_models_list_shows_the_profile(folder: Path) -> None:
    model = load_model("m", folder, profile=Profile.FAST)
    assert "  profile      fast" in show.model_lines(model)
    values = show.model_values(model)
    assert (values["profile"], values["previous_stage"]) == ("fast", None)


def test_predict_takes_the_three_profiles_and_no_other(folder: Path) -> None:
    arguments = ["predict", str(folder), str(folder), "-o", str(folder / "out"), "--profile"]
    refused = segnode(*arguments, "quick")
    assert refused.returncode == 2
    assert "'exact', 'fast', 'fastest'" in refused.stderr
    taken = segnode(*arguments, "fastest")
    assert "there are no DICOM images in it" in taken.stderr
