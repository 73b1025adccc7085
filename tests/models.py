"""A Model of three Segments without files, and labels as it might find them in a Series."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from scipy import ndimage

from node.core.anatomy import Code, Segment
from node.core.model import InputRules, Model
from node.core.names import SeriesInstanceUID
from node.core.uids import ResultUIDs, result_uids
from node.core.volume import LabelMap
from node.dicom.assemble import assemble
from node.dicom.series import SourceSeries

RULES = InputRules()
UIDS: ResultUIDs = result_uids("input", "model")
STRUCTURE = Code("91723000", "SCT", "Anatomical structure")
HIPPOCAMPUS = Code("5366008", "SCT", "Hippocampus")
BRAIN = Code("12738006", "SCT", "Brain")
LEFT = Code("7771000", "SCT", "Left")
SEGMENTS = (
    Segment(1, "Anterior", STRUCTURE, HIPPOCAMPUS, (230, 159, 0), BRAIN, LEFT),
    Segment(2, "Posterior", STRUCTURE, HIPPOCAMPUS, (86, 180, 233)),
    Segment(5, "Tail", STRUCTURE, HIPPOCAMPUS, (0, 158, 115)),
)


def make_model(segments: Sequence[Segment] = SEGMENTS) -> Model:
    return Model(
        name="hippocampus",
        folder=Path("models/hippocampus"),
        title="Hippocampus",
        version="1.0",
        fingerprint="0123456789abcdef" * 4,
        configuration="3d_fullres",
        folds=("0",),
        checkpoint_name="checkpoint_final.pth",
        channels=("MR",),
        orientation="RAS",
        orientation_assumed=False,
        accepts=RULES,
        segments=tuple(segments),
    )


def source_of(instances: Sequence[Dataset]) -> SourceSeries:
    return SourceSeries(SeriesInstanceUID(instances[0].SeriesInstanceUID), tuple(instances))


def labels_on(source: SourceSeries, array: NDArray[Any]) -> LabelMap:
    volume = assemble(source, RULES)
    assert array.shape == volume.array.shape
    return LabelMap(array, volume.affine, volume.frame_of_reference_uid)


def boxes(source: SourceSeries) -> LabelMap:
    """Label 2 before a corner of label 1; label 5 nowhere."""
    rows, columns = source.instances[0].Rows, source.instances[0].Columns
    array = np.zeros((len(source.instances), rows, columns), np.uint8)
    array[3:9, 4:12, 2:7] = 1
    array[6:14, 10:20, 5:13] = 2
    return labels_on(source, array)


def boxes_in(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Label 1 before a corner of label 2; label 5 nowhere."""
    array = np.zeros(shape, np.uint8)
    array[1:4, 4:12, 2:7] = 1
    array[3:6, 10:20, 5:13] = 2
    return array


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
