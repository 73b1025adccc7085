"""Answers as a Job has them, and one Segmentation of the default form by itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.errors import InvalidDicomError
from pydicom.uid import SegmentationStorage

from node.core.model import Model
from node.core.names import SeriesInstanceUID, SOPInstanceUID
from node.core.result import Identity, ObjectRef, ResultKind, SegForm
from node.core.uids import ResultUIDs
from node.core.verdict import Verdict
from node.core.volume import LabelMap, Volume
from node.dicom.planes import Plane, planes_of
from node.dicom.results.answer import Answer, ResultObject
from node.dicom.results.segmentation.encode import encode_segmentations
from node.dicom.results.segmentation.verify import verify_segmentations
from node.dicom.series import SourceSeries

CREATED_AT = 1_700_000_000.0  # 2023-11-14 22:13:20 UTC
IDENTITY = Identity("input", "model")


@dataclass(frozen=True)
class Named(Identity):
    """UIDs that were chosen elsewhere."""

    given: ResultUIDs

    def uids(self, kind: ResultKind, form: str = "", part: int = 1) -> ResultUIDs:
        return self.given


def answer_of(
    labels: LabelMap,
    model: Model,
    source: SourceSeries,
    planes: Sequence[Plane] | None = None,
    **fields: Any,
) -> Answer:
    """Labels on the planes of a source, on all of them by default; an image it does not have."""
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
    answer = answer_of(
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
    answer = answer_of(
        labels,
        model,
        source,
        planes,
        identity=Named("", "", named),
        predecessors=tuple(segmentation_ref(str(uid)) for uid in earlier),
    )
    ref = segmentation_ref(uids[1], uids[0])
    verify_segmentations([ResultObject(ref, (file,))], answer, SegForm())
