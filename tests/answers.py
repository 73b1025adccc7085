"""Answers as a Job has them, and the Segmentation they lead to."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.errors import InvalidDicomError
from pydicom.uid import SegmentationStorage

from node.core.model import InputRules, Model
from node.core.names import SeriesInstanceUID, SOPInstanceUID
from node.core.result import Identity, ObjectRef, ResultKind, SegForm
from node.core.uids import ResultUIDs
from node.core.verdict import Verdict
from node.core.volume import LabelMap, Volume
from node.dicom.assemble import stack
from node.dicom.planes import Plane, planes_of
from node.dicom.results.answer import Answer, ResultObject
from node.dicom.results.segmentation.encode import encode_segmentations
from node.dicom.results.segmentation.verify import verify_segmentations
from node.dicom.series import SourceSeries
from tests.models import boxes_in, make_model

CREATED_AT = 1_700_000_000.0  # 2023-11-14 22:13:20 UTC
IDENTITY = Identity("input", "model")


@dataclass(frozen=True)
class Named(Identity):
    """UIDs that were chosen elsewhere."""

    given: ResultUIDs

    def uids(self, kind: ResultKind, form: str = "", part: int = 1) -> ResultUIDs:
        return self.given


def answer_of(
    source: SourceSeries,
    array: NDArray[Any] | None = None,
    *,
    model: Model | None = None,
    rules: InputRules | None = None,
    **fields: Any,
) -> Answer:
    """What a Model said of a Series: an array (slice, row, column) on the grid of its volume.

    By default two boxes, labels 1 and 2; and the rules of the Model. `fields`: what else it has.
    """
    model = model or make_model()
    made = stack(source, rules or model.accepts)
    volume = made.volume
    labels = boxes_in(volume.array.shape) if array is None else array
    assert labels.shape == volume.array.shape
    predicted = LabelMap(labels, volume.affine, volume.frame_of_reference_uid)
    on_planes = made.labels_on_planes(predicted)
    known = {"identity": IDENTITY, "created_at": CREATED_AT, **fields}
    return Answer(on_planes, predicted, volume, model, source, made.planes, **known)


def answer_on_planes(
    labels: LabelMap,
    model: Model,
    source: SourceSeries,
    planes: Sequence[Plane] | None = None,
    **fields: Any,
) -> Answer:
    """Labels that lie on planes already, by default on all of the source; without an image."""
    if planes is None:
        planes = [plane for one in source.instances for plane in planes_of(one)]
    image = Volume(np.empty((0, 0, 0), np.float32), labels.affine, labels.frame_of_reference_uid)
    known = {"identity": IDENTITY, "created_at": CREATED_AT, **fields}
    return Answer(labels, labels, image, model, source, tuple(planes), **known)


def segmentation_ref(
    sop_instance_uid: str,
    series_instance_uid: str = "1.2.9",
    kind: ResultKind = ResultKind.SEGMENTATION,
) -> ObjectRef:
    """A Segmentation of the default form by name, or another object in its place."""
    series, instance = SeriesInstanceUID(series_instance_uid), SOPInstanceUID(sop_instance_uid)
    return ObjectRef(kind, "", SegmentationStorage, series, instance)


def encode(
    labels: LabelMap,
    model: Model,
    source: SourceSeries,
    uids: ResultUIDs,
    created_at: float,
    planes: Sequence[Plane] | None = None,
    predecessor: str | None = None,
    verdict: Verdict | None = None,
) -> Dataset:
    """The Segmentation of the default form, read again."""
    answer = answer_on_planes(
        labels,
        model,
        source,
        planes,
        identity=Named("", "", uids),
        created_at=created_at,
        verdict=verdict,
        predecessors=(segmentation_ref(predecessor),) if predecessor else (),
    )
    (made,) = encode_segmentations(answer, SegForm())
    return dcmread(BytesIO(made.content))


def file_bytes(dataset: Dataset) -> bytes:
    """As a DICOM file (PS3.10 7)."""
    buffer = BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def verify(
    file: bytes,
    labels: LabelMap,
    model: Model,
    source: SourceSeries,
    planes: Sequence[Plane] | None = None,
) -> None:
    """The gate for a file of the default form; its UIDs and predecessors are taken from it."""
    try:
        header = dcmread(BytesIO(file), stop_before_pixels=True)
        uids = [str(header.SeriesInstanceUID), str(header.SOPInstanceUID)]
        images = header.get("ReferencedImageSequence") or []
        earlier = [one.ReferencedSOPInstanceUID for one in images]
    except (InvalidDicomError, EOFError, AttributeError):
        uids, earlier = ["1.2.3", "1.2.3"], []
    named = ResultUIDs(SeriesInstanceUID(uids[0]), SOPInstanceUID(uids[1]))
    answer = answer_on_planes(
        labels,
        model,
        source,
        planes,
        identity=Named("", "", named),
        predecessors=tuple(segmentation_ref(str(uid)) for uid in earlier),
    )
    ref = segmentation_ref(uids[1], uids[0])
    verify_segmentations([ResultObject(ref, (file,))], answer, SegForm())


def read_back(dataset: Dataset) -> Dataset:
    return dcmread(BytesIO(file_bytes(dataset)))


def segmentation_of(answer: Answer, form: SegForm | None = None) -> ResultObject:
    """The Segmentation of an Answer, the default one by default."""
    (one,) = encode_segmentations(answer, form or SegForm())
    return one


def with_predecessors(answer: Answer, refs: Sequence[ObjectRef]) -> Answer:
    """The Answer to more Instances than an earlier one."""
    return replace(answer, predecessors=tuple(refs))
