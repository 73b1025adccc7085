"""The lanes that answer those who ask us to commit to Instances (PS3.4 J.3.3)."""

import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

import structlog

from node.core.commitment import (
    CLASS_INSTANCE_CONFLICT,
    NO_SUCH_OBJECT_INSTANCE,
    PROCESSING_FAILURE,
    Reference,
    Report,
    judged,
)
from node.core.errors import Fatal, Temporary
from node.core.job import backoff_seconds
from node.core.names import AETitle, SOPInstanceUID
from node.dicom.inbox import Inbox
from node.dicom.scu.answers import reason_in_words
from node.dicom.scu.peer import Peer
from node.lanes.lane import AT_ONCE, IDLE_SECONDS, Lane
from node.lanes.record import RecordLane
from node.lanes.tell import tell_state
from node.store.commitments import LONGEST_PAUSE_SECONDS, CommitmentStore, HeldInstance, Waiting
from node.store.deliveries import DeliveryStore

log = structlog.get_logger()

GIVE_UP_SECONDS: Final = 86400.0  # after the request: by then a sender has asked again, or a person

Failed = Sequence[tuple[Reference, int]]  # with the reason
# An N-EVENT-REPORT to a Peer: calling AE title, Transaction UID, what is committed to, what is not.
Reporting = Callable[[Peer, AETitle, str, Sequence[Reference], Failed], None]


def taking_reports(
    deliveries: DeliveryStore, peers: Collection[Peer]
) -> Callable[[Report, float], None]:
    """What a Peer says of Instances that we sent to it settles their Deliveries; no other's do."""
    awaited_from = {one.name: one.reports_as for one in peers}

    def take(report: Report, now: float) -> None:
        kept = [one.sop_instance_uid for one in report.committed]
        failed = {
            SOPInstanceUID(one.sop_instance_uid): reason_in_words(one.reason or 0)
            for one in report.failed
        }
        by = {name for name, title in awaited_from.items() if title == report.calling_ae_title}
        asked = {one.peer for one in deliveries.unconfirmed(report.transaction_uid)}
        for peer in sorted(asked - by):
            _warn_of_a_stranger(report, peer, awaited_from.get(peer))
        for job in deliveries.committed(report.transaction_uid, kept, failed, now, by):
            tell_state(job)

    return take


def _warn_of_a_stranger(report: Report, peer: str, awaited_from: AETitle | None) -> None:
    log.warning(
        "a commitment report is not taken: its AE title is not that of the peer that was asked; "
        f"if it is the peer's, write it as peers.{peer}.commitment_ae_title",
        reported_by=report.calling_ae_title,
        peer=peer,
        awaited_from=awaited_from,  # None: it is not in the configuration any more
        transaction_uid=report.transaction_uid,
        committed=len(report.committed),
        failed=len(report.failed),
    )


class CommitmentLane(Lane):
    """Requests of one Peer → N-EVENT-REPORT of which of their Instances we hold."""

    def __init__(
        self,
        commitments: CommitmentStore,
        inbox: Inbox,
        recording: RecordLane,
        peer: Peer,
        calling_ae_title: AETitle,
        report: Reporting,
        retry_first_seconds: float,
        retry_max_seconds: float,
    ) -> None:
        super().__init__(f"commit {peer.name}")
        self._commitments, self._inbox, self._recording = commitments, inbox, recording
        self._peer, self._calling_ae_title, self._report = peer, calling_ae_title, report
        self._retry_first_seconds = retry_first_seconds
        self._retry_max_seconds = retry_max_seconds
        self._noticed: dict[int, float] = {}  # monotonic, by request

    def step(self) -> float:
        waiting = self._commitments.due(self._peer.ae_title, time.time())
        if waiting is None:
            return IDLE_SECONDS
        noticed = self._noticed.setdefault(waiting.id, time.monotonic())
        if not self._recording.has_recorded_as_of(noticed):
            self._recording.wake()  # it wakes this lane when it has been through incoming/
            return IDLE_SECONDS
        del self._noticed[waiting.id]
        self._answer(waiting)
        return AT_ONCE

    def _answer(self, waiting: Waiting) -> None:
        try:
            committed, failed = self._judged(waiting.asked.items)
            title, transaction = self._calling_ae_title, waiting.asked.transaction_uid
            self._report(self._peer, title, transaction, committed, failed)
        except Temporary as error:
            self._retry(waiting, str(error))
        except Fatal as error:
            self._give_up(waiting, str(error))
        else:
            answer = f"committed to {len(committed)} Instances, not to {len(failed)}"
            self._commitments.settle(waiting, answer, time.time())
            log.info("commitment answered", **self._which(waiting), answer=answer)

    def _judged(self, items: Sequence[Reference]) -> tuple[Sequence[Reference], Failed]:
        """Raises Temporary where something that may be asked for is not recorded yet."""
        held = self._commitments.held([one.sop_instance_uid for one in items])
        committed, failed = judged(items, lambda one: self._reason(one, held))
        absent = any(reason == NO_SUCH_OBJECT_INSTANCE for _, reason in failed)
        if absent and self._recording.unread():
            raise Temporary("files in incoming/ cannot be recorded yet, see the log")
        return committed, failed

    def _reason(self, one: Reference, held: Mapping[str, Sequence[HeldInstance]]) -> int | None:
        """Why we do not commit to an Instance; None where we do. PS3.3 C.14.1.1."""
        here = [row for row in held.get(one.sop_instance_uid, ()) if row.path]
        same_class = [row for row in here if row.sop_class_uid == one.sop_class_uid]
        try:
            if any(self._inbox.has(Path(row.path)) for row in same_class):
                return None
            if any(self._inbox.has(Path(row.path)) for row in here):
                return CLASS_INSTANCE_CONFLICT
        except OSError as error:
            log.error("an instance file cannot be looked for", error=str(error))
            return PROCESSING_FAILURE
        return NO_SUCH_OBJECT_INSTANCE

    def _retry(self, waiting: Waiting, answer: str) -> None:
        now = time.time()
        if now > waiting.asked.asked_at + GIVE_UP_SECONDS:
            self._give_up(waiting, f"for a day: {answer}")
            return
        wait = backoff_seconds(
            waiting.attempts + 1,
            self._retry_first_seconds,
            min(self._retry_max_seconds, LONGEST_PAUSE_SECONDS / 2),
            random.random(),
        )
        self._commitments.retry(waiting, now + wait, answer)
        log.warning(
            "commitment will be answered later",
            **self._which(waiting),
            answer=answer,
            in_seconds=round(wait, 1),
        )

    def _give_up(self, waiting: Waiting, answer: str) -> None:
        """Who asked keeps its Instances, or asks again: nothing is lost."""
        self._commitments.settle(waiting, f"not answered: {answer}", time.time())
        log.error("commitment cannot be answered", **self._which(waiting), reason=answer)

    def _which(self, waiting: Waiting) -> Mapping[str, str]:
        return {"peer": self._peer.name, "transaction_uid": waiting.asked.transaction_uid}
