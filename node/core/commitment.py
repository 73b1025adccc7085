"""Storage Commitment as two messages between the receiver and the node (PS3.4 J.3).

    TIME-ASSOCIATION-NUMBER.asked    a peer asks us to commit to Instances (N-ACTION)
    TIME-ASSOCIATION-NUMBER.commit   a peer tells what became of those that we sent (N-EVENT-REPORT)

Files of incoming/, each a JSON object; they sort after the Instances acknowledged before them.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

SOP_CLASS: Final = "1.2.840.10008.1.20.1"  # Storage Commitment Push Model
SOP_INSTANCE: Final = "1.2.840.10008.1.20.1.1"
# Failure Reason (0008,1197), PS3.3 C.14.1.1
PROCESSING_FAILURE: Final = 0x0110
NO_SUCH_OBJECT_INSTANCE: Final = 0x0112
CLASS_INSTANCE_CONFLICT: Final = 0x0119

_UID_CHARACTERS: Final = frozenset("0123456789.")


@dataclass(frozen=True)
class Reference:
    """One Instance. reason: why nobody commits to it; None where somebody does, or is asked to."""

    sop_class_uid: str
    sop_instance_uid: str
    reason: int | None = None

    @classmethod
    def from_value(cls, value: Any) -> Self:
        """Raises ValueError, TypeError."""
        sop_class_uid, sop_instance_uid, *reason = value
        for uid in (sop_class_uid, sop_instance_uid):
            require_uid(uid)
        return cls(sop_class_uid, sop_instance_uid, int(reason[0]) if reason else None)

    def value(self) -> list[str | int]:
        """As JSON has it."""
        uids: list[str | int] = [self.sop_class_uid, self.sop_instance_uid]
        return uids if self.reason is None else [*uids, self.reason]


@dataclass(frozen=True)
class Asked:
    """A request to commit. asked_at: seconds since 1970."""

    calling_ae_title: str
    transaction_uid: str
    asked_at: float
    items: Sequence[Reference]

    def to_json(self) -> str:
        return json.dumps(asdict(self) | {"items": [one.value() for one in self.items]})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises ValueError, KeyError, TypeError where it is not what `to_json` wrote."""
        told = json.loads(text)
        items = tuple(map(Reference.from_value, told["items"]))
        return cls(*_who(told), float(told["asked_at"]), items)


@dataclass(frozen=True)
class Report:
    """What a peer commits to of one transaction, and what not. told_at: seconds since 1970."""

    calling_ae_title: str
    transaction_uid: str
    told_at: float
    committed: Sequence[Reference]
    failed: Sequence[Reference]

    def to_json(self) -> str:
        references = {
            "committed": [one.value() for one in self.committed],
            "failed": [one.value() for one in self.failed],
        }
        return json.dumps(asdict(self) | references)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises ValueError, KeyError, TypeError where it is not what `to_json` wrote."""
        told = json.loads(text)
        committed, failed = (
            tuple(map(Reference.from_value, told[key])) for key in ("committed", "failed")
        )
        return cls(*_who(told), float(told["told_at"]), committed, failed)


def judged(
    asked: Sequence[Reference], reason: Callable[[Reference], int | None]
) -> tuple[list[Reference], list[tuple[Reference, int]]]:
    """Parts what is committed to from what is not, and why not. reason: None where we commit."""
    found = [(one, reason(one)) for one in asked]
    committed = [one for one, why in found if why is None]
    return committed, [(one, why) for one, why in found if why is not None]


def require_uid(value: Any) -> None:
    """Raises ValueError where it is not a UID (PS3.5 9.1)."""
    is_one = isinstance(value, str) and 0 < len(value) <= 64 and _UID_CHARACTERS.issuperset(value)
    if not is_one:
        raise ValueError(f"not a UID: {str(value)[:80]!r}")


def _who(told: Any) -> tuple[str, str]:
    require_uid(told["transaction_uid"])
    return str(told["calling_ae_title"])[:16], told["transaction_uid"]
