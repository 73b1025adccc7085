"""Whether a Peer keeps what it answered success to: Storage Commitment, and what stands in for it.

asked       N-ACTION after the C-STORE; the answer may come at once, or later to our receiver
looked for  where no answer came in time: does the Peer find the object (C-FIND, QIDO-RS)?
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from node.core.delivery import Delivery
from node.core.errors import Fatal, SegnodeError
from node.core.job import Job
from node.core.names import AETitle
from node.core.result import ObjectRef
from node.core.text import clean
from node.core.uids import derive_uid
from node.dicom.scu.commitment import ask
from node.dicom.scu.peer import Peer
from node.dicom.scu.query import holds
from node.store.deliveries import DeliveryStore
from node.store.jobs import JobStore

log = structlog.get_logger()

ON_THE_SAME_ASSOCIATION_SECONDS = 2.0  # for an answer before we release
UNASKED_SECONDS = 10.0  # for a Peer that knows no commitment to index what it stored
_AGAIN_SECONDS = 60.0  # between two questions to a Peer that cannot be asked


@dataclass(frozen=True)
class Confirming:
    """Asks one Peer. wait_seconds: for its answer, before the object is looked for.

    unasked_seconds: in its place where the Peer cannot be asked; no more than that.
    """

    deliveries: DeliveryStore
    jobs: JobStore
    peer: Peer
    calling_ae_title: AETitle
    wait_seconds: float
    unasked_seconds: float = UNASKED_SECONDS

    def begin(self, deliveries: Sequence[Delivery], now: float) -> str:
        """The transaction in which these are confirmed, should the Peer store them."""
        uids = [one.sop_instance_uid for one in deliveries]
        return derive_uid("commitment", self.peer.name, *uids, repr(now))

    def owed(self, one: Delivery, answer: str, transaction_uid: str, now: float) -> None:
        """The Peer answered success; from now on it owes us a confirmation."""
        self.deliveries.stored(one, answer, transaction_uid, now + self.wait_seconds, now)

    def ask(self, job: Job, transaction_uid: str) -> list[Job]:
        """Requests commitment of what was stored; returns the Jobs that an answer at once ends."""
        stored = self.deliveries.unconfirmed(transaction_uid)
        refs = self._refs(job, stored)
        try:
            report = ask(
                self.peer,
                self.calling_ae_title,
                transaction_uid,
                refs,
                ON_THE_SAME_ASSOCIATION_SECONDS,
            )
        except Exception as error:  # whatever it is, the Peer has what it stored
            look_at = time.time() + min(self.unasked_seconds, self.wait_seconds)
            why = self._why(error)
            for one in stored:
                self.deliveries.ask_later(one, look_at, f"{one.answer}; {why}", time.time())
            return []
        if report is None:
            return []
        by = {self.peer.name}
        return self.deliveries.committed(
            transaction_uid, report.committed, report.failed, time.time(), by
        )

    def look(self, job: Job, stored: Sequence[Delivery]) -> list[Job | None]:
        """No answer came in time: looks for the objects at the Peer."""
        study = self.deliveries.study_of(job.id)
        refs = self._refs(job, stored)
        return [self._look(one, ref, study) for one, ref in zip(stored, refs, strict=True)]

    def _refs(self, job: Job, deliveries: Sequence[Delivery]) -> list[ObjectRef]:
        by_uid = {one.sop_instance_uid: one for one in self.jobs.objects(job.id)}
        return [by_uid[one.sop_instance_uid] for one in deliveries]

    def _look(self, one: Delivery, ref: ObjectRef, study: str) -> Job | None:
        try:
            found = holds(self.peer, self.calling_ae_title, study, ref)
        except Fatal as error:
            words = f"not confirmed: {error}"
            return self.deliveries.unconfirmable(one, words, time.time())
        except Exception as error:  # Temporary, or whatever a Peer's answer does to a decoder
            words, now = f"stored, not confirmed yet: {self._why(error)}", time.time()
            log.warning(words, job=one.job_id, object=one.kind.value, peer=self.peer.name)
            self.deliveries.ask_later(one, now + _AGAIN_SECONDS, words, now)
            return None
        if found:
            return self.deliveries.confirmed(one, "confirmed: the Peer finds it", time.time())
        log.warning("the peer does not hold what it stored", job=one.job_id, peer=self.peer.name)
        words = f"{self.peer.name} answered success and does not find it; it is sent again"
        self.deliveries.lost(one, words, time.time())
        return None

    def _why(self, error: Exception) -> str:
        """In words; the traceback of what nobody expects goes to the log."""
        if isinstance(error, SegnodeError):
            return str(error)
        log.error("a peer cannot be asked to confirm", peer=self.peer.name, exc_info=error)
        return clean(f"{type(error).__name__}: {error}")[:200]
