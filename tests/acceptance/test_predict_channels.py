"""`segnode predict` with a real nnU-Net model that reads two Series."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import Dataset, dcmread

from node.core.uids import derive_uid
from node.inference.model import load_model
from tests.model_factory import make_model_folder
from tests.peers import REPOSITORY
from tests.series_factory import make_series, write_series
from tests.stock import stock_labels

SHAPE = (20, 24, 16)


def _series(name: str, seed: int) -> list[Dataset]:
    voxels = np.random.default_rng(seed).integers(0, 900, SHAPE, np.uint16)
    instances = make_series(name=name, voxels=voxels, spacing_mm=(1.0, 1.0, 1.0))
    for one in instances:
        one.StudyInstanceUID = derive_uid("study")
        one.FrameOfReferenceUID = derive_uid("frame")
    return instances


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("given")
    make_model_folder(folder / "both", channels=2)
    make_model_folder(folder / "one")
    write_series(_series("T1", 1), folder / "study" / "t1")
    write_series(_series("FLAIR", 2), folder / "study" / "flair")
    return folder


def _predict(given: Path, model: str, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable, "-m", "node", "predict", given / model, given / "study", "-o", out,
            "--nifti", "--orientation", "LPS", *options,
        ],
        capture_output=True, text=True, cwd=REPOSITORY, timeout=300, check=False,
    )  # fmt: skip


def _labels(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def test_each_channel_gets_its_series_by_uid_or_folder_and_the_result_is_nnunets(
    given: Path, tmp_path: Path
) -> None:
    t1, flair = derive_uid("T1", "series"), derive_uid("FLAIR", "series")
    folder = given / "study" / "flair"
    # Not in the channels' order: the names say which is which.
    options = ["--channel", f"channel 1={folder}", "--channel", f"channel 0={t1}"]
    done = _predict(given, "both", tmp_path / "out", *options)
    assert done.returncode == 0, done.stderr
    (segmentation,) = (tmp_path / "out").glob("*.seg.dcm")
    assert segmentation.name == f"{t1}.seg.dcm"
    referenced = dcmread(segmentation).ReferencedSeriesSequence
    assert [one.SeriesInstanceUID for one in referenced] == [t1, derive_uid("FLAIR", "series")]
    ours = _labels(tmp_path / "out" / f"{t1}.nii.gz")
    channels = [np.random.default_rng(seed).integers(0, 900, SHAPE, np.uint16) for seed in (1, 2)]
    model = load_model("both", given / "both", "LPS")
    theirs = stock_labels(model, np.stack(channels).astype(np.float32), (1.0, 1.0, 1.0))
    assert np.mean(ours == theirs) > 0.999
    other = ["--channel", f"channel 0={flair}", "--channel", f"channel 1={t1}"]
    assert _predict(given, "both", tmp_path / "other", *other).returncode == 0
    assert np.mean(_labels(tmp_path / "other" / f"{flair}.nii.gz") == theirs) < 0.99


T1 = derive_uid("T1", "series")


@pytest.mark.parametrize(
    ("model", "options", "sentence"),
    [
        ("both", [], 'reads 2 Series; name one for each of its channels: --channel "channel 0=SER'),
        ("both", [f"channel 0={T1}"], 'channel 0, channel 1; add --channel "channel 1=SERIES_UID'),
        ("both", [f"chanel 1={T1}"], 'has no channel "chanel 1"; did you mean "channel 1"?'),
        ("both", ["channel 0"], "write NAME=SERIES_UID_OR_FOLDER"),
        ("both", ["channel 0=a", "channel 0=b"], "--channel channel 0 is given twice: a and b"),
        (
            "both",
            [f"channel 0={T1[:-1]}", f"channel 1={T1}"],
            f'is no folder and no Series in {{study}}; did you mean "{T1}"?',
        ),
        ("both", ["channel 0={study}", f"channel 1={T1}"], "{study} holds 2 Series"),
        (
            "both",
            [f"channel 0={T1}", "channel 1={study}/t1"],
            f"channel channel 0 and channel channel 1 are the same Series {T1}",
        ),
        ("one", [f"channel 0={T1}"], 'the model "one" reads one Series; leave --channel out'),
    ],
)
def test_what_is_not_one_series_for_each_channel_is_refused_with_what_to_do(
    model: str, options: list[str], sentence: str, given: Path, tmp_path: Path
) -> None:
    study = str(given / "study")
    named = [part for one in options for part in ("--channel", one.replace("{study}", study))]
    done = _predict(given, model, tmp_path / "out", *named)
    assert done.returncode == 1
    assert sentence.replace("{study}", study) in done.stderr
    assert not (tmp_path / "out").exists()
