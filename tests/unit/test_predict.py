"""`segnode predict` without a network of neurons: what becomes of a folder of files."""

import os
import shutil
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from node.core.model import Model, Tell, tell_nobody
from node.core.volume import LabelMap, Volume
from node.predict import predict_folder, torn_files
from tests.models import SEGMENTS, make_model
from tests.series_factory import make_series, write_series

ARRIVED = 1_700_000_000.0


class Bright:
    """An Engine whose every answer is label 1 where it is bright."""

    def segment(
        self,
        volumes: Sequence[Volume],
        model: Model,
        tell: Tell = tell_nobody,
        probabilities: bool = False,
    ) -> LabelMap:
        (volume,) = volumes
        labels = (volume.array > 450).astype(np.uint8)
        return LabelMap(labels, volume.affine, volume.frame_of_reference_uid)


@pytest.fixture
def series(tmp_path: Path) -> Path:
    """A series whose files came one second after another."""
    folder = write_series(make_series(), tmp_path / "series")
    for number, path in enumerate(sorted(folder.iterdir())):
        os.utime(path, (0.0, ARRIVED - number))
    return folder


def predicted(series: Path, out: Path) -> Path:
    (prediction,) = predict_folder(make_model(SEGMENTS[:1]), Bright(), series, out, nifti=False)
    assert prediction.reason is None
    return prediction.files[0]


def test_the_same_files_give_the_same_bytes_whenever_they_are_predicted(
    series: Path, tmp_path: Path
) -> None:
    first = predicted(series, tmp_path / "first").read_bytes()
    moved = Path(shutil.move(series, tmp_path / "moved"))
    for path in moved.iterdir():
        os.utime(path, (ARRIVED + 99.0, path.stat().st_mtime))  # reading a file leaves its mark
    assert predicted(moved, tmp_path / "second").read_bytes() == first


def test_a_result_is_dated_by_the_newest_file_of_its_series(series: Path, tmp_path: Path) -> None:
    dataset = dcmread(predicted(series, tmp_path / "out"))
    expected = datetime.fromtimestamp(ARRIVED).strftime("%Y%m%d%H%M%S")
    for name in ("InstanceCreation", "Series", "Content"):
        assert dataset[f"{name}Date"].value + dataset[f"{name}Time"].value == expected


def test_a_file_that_was_cut_off_in_its_copy_is_named(series: Path) -> None:
    assert torn_files(series) == []
    cut = series / "0003.dcm"
    cut.write_bytes(cut.read_bytes()[:-100])
    ((path, why),) = torn_files(series)
    assert path == cut
    assert why.startswith("is not a whole DICOM file: (7fe0,0010) ends after ")
