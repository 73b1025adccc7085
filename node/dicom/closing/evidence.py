"""What is known of an open Series, and what it says: values only."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from node.dicom.planes import Plane

RELEASED: Final = "released"
INCOMPLETE: Final = "incomplete"  # released, but something that was sent over it is not here
OPEN: Final = "open"
UNREAD: Final = "unread"  # something of it is safe on disk and cannot be read yet
_BEST_FIRST: Final = (RELEASED, INCOMPLETE, OPEN, UNREAD)


def best_of(endings: Sequence[str]) -> str | None:
    """The ending that answers for an Instance which several Associations brought; None for none."""
    order = {ending: place for place, ending in enumerate(_BEST_FIRST)}
    return min(endings, key=lambda one: (order.get(one, len(order)), one), default=None)


@dataclass(frozen=True)
class Count:
    """What a Peer answered by C-FIND. instances: that it holds of the Series, None: not asked yet.

    held: how many were here when it was asked. ahead: by how many it was ahead when it first gave
    this number. stable_seconds: for how long it has given it; rested_seconds: with as many here.
    grew: it gave a lower one before. compared: it holds the same SOP Instance UIDs as we do, beside
    left_out others that belong in no volume. missing: what else it holds and we do not, in words.
    error: why the last question had no answer.
    """

    peer: str
    instances: int | None = None
    held: int = 0
    ahead: int = 0
    stable_seconds: float = 0.0
    grew: bool = False
    missing: tuple[str, ...] = ()
    missing_count: int = 0
    error: str | None = None
    at: float = 0.0
    rested_seconds: float = 0.0
    left_out: int = 0
    compared: bool = False

    def is_of(self, held: int) -> bool:
        """Whether it was answered since the last of these Instances came."""
        return self.instances is not None and self.held == held and self.error is None


@dataclass(frozen=True)
class Instance:
    """One Instance as evidence. ending: of the Association that brought it, None: not known."""

    sop_instance_uid: str
    number: int | None
    parts: int | None
    ending: str | None
    planes: tuple[Plane, ...] = ()


@dataclass(frozen=True)
class Facts:
    """All that a judgement rests on. asks: Peers that are asked for their count.

    silent_seconds: since the last Instance. header_counts: whether (0020,1002) is believed.
    """

    instances: Sequence[Instance]
    silent_seconds: float
    counts: Sequence[Count] = ()
    asks: Sequence[str] = ()
    header_counts: bool = True


@dataclass(frozen=True)
class Finding:
    """One piece of evidence. holds: None where it neither speaks for nor against."""

    evidence: str
    holds: bool | None
    words: str
    missing: tuple[str, ...] = ()


def count_values(count: Count) -> dict[str, Any]:
    """A Count as JSON takes it."""
    return asdict(count)


def count_from(values: Mapping[str, Any]) -> Count:
    """The Count of `count_values`, after it was JSON."""
    return Count(**dict(values) | {"missing": tuple(values.get("missing", ()))})
