"""What a Model answered about a Series: all that result objects are made from, and the objects."""

from dataclasses import dataclass

from node.core.model import Model
from node.core.result import Identity, ObjectRef, ResultKind
from node.core.uids import ResultUIDs
from node.core.verdict import Verdict
from node.core.volume import LabelMap, Volume
from node.dicom.planes import Plane
from node.dicom.series import SourceSeries


@dataclass(frozen=True, eq=False)
class Answer:
    """The labels of one Job with all that they belong to.

    label_map: on the slices of the source, one for each of `planes`. predicted: the same on the
    grid of `volume`, whose intensities are modality values; the two differ where slices are tilted
    or unevenly spaced. created_at: seconds since the epoch, the same at every attempt.
    predecessors: the objects of an earlier Job that these take the place of. verdict: how sure it
    is that the source is whole.
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

    def uids(self, kind: ResultKind, form: str = "", part: int = 1) -> ResultUIDs:
        """UIDs of one result object of this Job."""
        return self.identity.uids(kind, form, part)


@dataclass(frozen=True, eq=False)
class ResultObject:
    """A result object as a Part 10 file (PS3.10 7)."""

    ref: ObjectRef
    content: bytes
