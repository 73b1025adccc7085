"""One result object on its way to one Peer."""

from dataclasses import dataclass
from enum import StrEnum

from node.core.names import JobId, SOPInstanceUID
from node.core.result import ResultKind


class DeliveryState(StrEnum):
    """What is true of a Delivery."""

    OPEN = "open"  # the Peer does not have it, as far as we know
    STORED = "stored"  # it answered success, and has not confirmed that it keeps it
    DONE = "done"  # it has it; confirmed, where the Peer is asked for that
    FAILED = "failed"  # it will never take it until a person changes something


@dataclass(frozen=True)
class Delivery:
    """One result object to one Peer. Times are seconds since the epoch, UTC.

    not_before: when the next attempt, or the next question whether it is kept, may come.
    tried_at: of the last attempt; from then on the Peer may have the object. stored_at: the Peer
    answered success. transaction_uid: of the request to confirm it (PS3.4 J.3.2).
    lost_at: the Peer does not keep what it had answered success to; it is sent again.
    """

    id: int
    job_id: JobId
    peer: str
    kind: ResultKind
    sop_instance_uid: SOPInstanceUID
    attempts: int
    not_before: float
    answer: str | None = None
    tried_at: float | None = None
    stored_at: float | None = None
    transaction_uid: str | None = None
    lost_at: float | None = None
    done_at: float | None = None
    failed_at: float | None = None

    @property
    def state(self) -> DeliveryState:
        if self.done_at is not None:
            return DeliveryState.DONE
        if self.failed_at is not None:
            return DeliveryState.FAILED
        return DeliveryState.OPEN if self.stored_at is None else DeliveryState.STORED

    @property
    def is_settled(self) -> bool:
        """Nothing more will happen to it by itself."""
        return self.state in (DeliveryState.DONE, DeliveryState.FAILED)
