"""What a Model answered about a Series: all that result objects are made from, and the objects."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from node.core.model import Model
from node.core.result import Identity, ObjectRef, ResultKind
from node.core.uids import ResultUIDs, derive_uid
from node.core.verdict import Verdict
from node.core.volume import LabelMap, Volume
from node.dicom.planes import Plane
from node.dicom.series import SourceSeries

Piece = bytes | memoryview


@dataclass(frozen=True, eq=False)
class Answer:
    """The labels of one Job with all that they belong to.

    label_map: on the slices of the source, one for each of `planes`. predicted: the same on the
    grid of `volume`, whose intensities are modality values; the two differ where slices are tilted
    or unevenly spaced. created_at: seconds since the epoch, the same at every attempt.
    predecessors: the objects of an earlier Job that these take the place of. verdict: how sure it
    is that the source is whole. probabilities: by label, (slice, row, column) as the label map,
    255 is certain; what a FRACTIONAL Segmentation shows. others: the Series of further channels,
    which the labels do not lie on.
    """

    label_map: LabelMap
    predicted: LabelMap
    volume: Volume
    model: Model
    source: SourceSeries
    planes: tuple[Plane, ...]
    identity: Identity
    created_at: float
    predecessors: tuple[ObjectRef, ...] = ()
    verdict: Verdict | None = None
    probabilities: Mapping[int, NDArray[np.uint8]] | None = None
    others: tuple[SourceSeries, ...] = ()

    def uids(self, kind: ResultKind, form: str = "", part: int = 1) -> ResultUIDs:
        """UIDs of one result object of this Job."""
        return self.identity.uids(kind, form, part)

    @property
    def first(self) -> Dataset:
        """The Instance of the first plane: whose patient and Study the results have."""
        uid = self.planes[0].sop_instance_uid
        return next(one for one in self.source.instances if one.get("SOPInstanceUID") == uid)

    @property
    def further(self) -> list[list[Dataset]]:
        """The Instances of further channels by Series, each once, sorted by their UIDs."""
        seen = {str(one.get("SOPInstanceUID")) for one in self.source.instances}
        found = []
        for series in self.others:
            new = {str(one.SOPInstanceUID): one for one in series.instances}
            found.append([new[uid] for uid in sorted(new.keys() - seen)])
            seen |= new.keys()
        return [instances for instances in found if instances]

    def tracking_uid(self, label: int) -> str:
        """Tracking UID of what a Segment shows: the same in all objects of this Job."""
        named = self.uids(ResultKind.SEGMENTATION).sop_instance_uid
        return derive_uid("tracking", named, str(label))


@dataclass(frozen=True, eq=False)
class ResultObject:
    """A result object as a Part 10 file (PS3.10 7).

    pieces: the file, one after another. Of a Segmentation they can be 2 GB, so nobody joins them;
    frames that are alike share one. warnings: what a person should know of it.
    """

    ref: ObjectRef
    pieces: tuple[Piece, ...]
    warnings: tuple[str, ...] = ()

    @property
    def content(self) -> bytes:
        """The whole file, for those that are small."""
        return b"".join(self.pieces)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return sum(len(piece) for piece in self.pieces)
