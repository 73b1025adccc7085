"""Answers about a Series: given labels, as if a Model had found them."""

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from node.core.model import InputRules, Model
from node.core.names import SeriesInstanceUID
from node.core.volume import LabelMap
from node.dicom.assemble import stack
from node.dicom.inbox import read_files
from node.dicom.results.answer import Answer
from node.dicom.scu.instance import dicom_files
from node.dicom.series import SourceSeries
from tests.answers import CREATED_AT, IDENTITY
from tests.judges import faults

# Real Series that make a volume, of all kinds; the rules that they need beside the usual.
REAL: Final = {
    "dicom/mr_hippocrop_1": InputRules(),
    "dicom/mr_siemens_prone_sagittal": InputRules(),
    "dicom/mr_siemens_j2k_fragments": InputRules(),
    "dicom/ct_philips_study/S2010": InputRules(),
    "dicom/ct_philips_tilt": InputRules(resample=True),
    "dicom/dicom2nifti/philips_enhanced/anatomical/001": InputRules(),
}


def answer_of(
    source: SourceSeries,
    array: NDArray[Any],
    model: Model,
    rules: InputRules | None = None,
    **more: Any,
) -> Answer:
    """The Answer with labels (slice, row, column) on the grid of the source's volume."""
    stacked = stack(source, rules or model.accepts)
    volume = stacked.volume
    assert array.shape == volume.array.shape
    predicted = LabelMap(array, volume.affine, volume.frame_of_reference_uid)
    return Answer(
        label_map=stacked.labels_on_planes(predicted),
        predicted=predicted,
        volume=volume,
        model=model,
        source=source,
        planes=stacked.planes,
        identity=IDENTITY,
        created_at=CREATED_AT,
        **more,
    )


def real_source(folder: Path) -> SourceSeries:
    """The Series of a folder of real files, each with a Frame of Reference."""
    series = read_files(SeriesInstanceUID(""), dicom_files(folder))
    for instance in series.instances:
        if not instance.get("FrameOfReferenceUID"):
            instance.FrameOfReferenceUID = "1.2.840.99"
    return series


def blobs(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Labels 1 and 2 with holes, islands in holes, and pixels that touch by corners.

    They lie at the last borders, and in no more than 64 rows and columns.
    """
    part = tuple(min(size, 64) for size in shape)
    noise = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=part), 2)
    labels = np.zeros(shape, np.uint8)
    corner = labels[-part[0] :, -part[1] :, -part[2] :]
    corner[noise > 0.02], corner[noise < -0.05] = 1, 2
    return labels


def dciodvfy(content: bytes, folder: Path) -> set[str]:
    """Its errors about an object, without those that only make no DICOMDIR. Skips without it."""
    file = folder / "judged.dcm"
    file.write_bytes(content)
    return faults(file)
