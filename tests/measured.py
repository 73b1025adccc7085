"""Answers with the Segmentation they lead to, for the tests of what else is made of them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import CTImageStorage, PositronEmissionTomographyImageStorage

from node.core.model import InputRules, Model
from node.core.result import Identity, ObjectRef, SegForm
from node.core.volume import LabelMap
from node.dicom.assemble import stack
from node.dicom.results.answer import Answer, ResultObject
from node.dicom.results.segmentation.encode import encode_segmentations
from node.dicom.series import SourceSeries
from tests.answers import CREATED_AT
from tests.series_factory import make_series
from tests.unit.test_seg import make_model

IDENTITY = Identity("input", "model")


def answer_of(
    source: SourceSeries,
    array: NDArray[Any] | None = None,
    model: Model | None = None,
    rules: InputRules | None = None,
) -> Answer:
    """What the network said of a Series; two boxes by default, labels 1 and 2."""
    made = stack(source, rules or InputRules())
    volume = made.volume
    labels = boxes_in(volume.array.shape) if array is None else array
    predicted = LabelMap(labels, volume.affine, volume.frame_of_reference_uid)
    return Answer(
        label_map=made.labels_on_planes(predicted),
        predicted=predicted,
        volume=volume,
        model=model or make_model(),
        source=source,
        planes=made.planes,
        identity=IDENTITY,
        created_at=CREATED_AT,
    )


def boxes_in(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Label 1 before a corner of label 2; label 5 nowhere."""
    array = np.zeros(shape, np.uint8)
    array[1:4, 4:12, 2:7] = 1
    array[3:6, 10:20, 5:13] = 2
    return array


def segmentation_of(answer: Answer, form: SegForm | None = None) -> ResultObject:
    """The Segmentation of an Answer, the default one by default."""
    (one,) = encode_segmentations(answer, form or SegForm())
    return one


def with_predecessors(answer: Answer, refs: Sequence[ObjectRef]) -> Answer:
    """The Answer to more Instances than an earlier one."""
    return replace(answer, predecessors=tuple(refs))


def make_ct(**values: object) -> list[Dataset]:
    """Twenty slices in Hounsfield units."""
    instances = make_series(name="ct")
    for one in instances:
        one.SOPClassUID, one.Modality = CTImageStorage, "CT"
        one.file_meta.MediaStorageSOPClassUID = CTImageStorage
        one.RescaleSlope, one.RescaleIntercept = 1.0, -1024.0
        for keyword, value in values.items():
            setattr(one, keyword, value)
    return instances


def make_pet(units: str, **values: object) -> list[Dataset]:
    """Twenty slices in these Units (0054,1001)."""
    instances = make_ct(**values)
    for one in instances:
        one.SOPClassUID, one.Modality = PositronEmissionTomographyImageStorage, "PT"
        one.file_meta.MediaStorageSOPClassUID = PositronEmissionTomographyImageStorage
        one.RescaleSlope, one.RescaleIntercept, one.Units = 0.37, 0.0, units
    return instances
