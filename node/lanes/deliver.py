"""The lanes that take results to their Peers."""

import random
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from node import pipeline
from node.core.delivery import Delivery
from node.core.job import Job, backoff_seconds
from node.core.names import AETitle, JobId
from node.dicom.outbox import Outbox
from node.dicom.scu.answers import Outcome, Stored
from node.dicom.scu.peer import Peer
from node.lanes.confirm import Confirming
from node.lanes.lane import AT_ONCE, IDLE_SECONDS, Lane
from node.lanes.tell import tell_state
from node.store.deliveries import DeliveryStore, Taken

log = structlog.get_logger()


@dataclass(frozen=True)
class Pauses:
    """Between attempts: doubling from the first to the longest, s, without end."""

    first_seconds: float
    longest_seconds: float

    def after(self, attempts: int) -> float:
        """At random, a little, or what failed together would come again together."""
        return backoff_seconds(attempts, self.first_seconds, self.longest_seconds, random.random())


class InHand:
    """The Jobs whose objects are on their way to one Peer: no other lane takes these."""

    def __init__(self) -> None:
        self._ids: set[JobId] = set()
        self._taking = threading.Lock()

    @contextmanager
    def take(self, deliveries: DeliveryStore, peer: str) -> Iterator[tuple[Taken | None, bool]]:
        """What is due to the Peer and in no other lane's hand; whether it is to be sent.

        What was stored and is not confirmed yet comes after what is to be sent.
        """
        with self._taking:
            now = time.time()
            taken = deliveries.take(peer, now, self._ids)
            is_new = taken is not None
            taken = taken or deliveries.take_unconfirmed(peer, now, self._ids)
            if taken is not None:
                self._ids.add(taken[0].id)
        try:
            yield taken, is_new
        finally:
            if taken is not None:
                with self._taking:
                    self._ids.remove(taken[0].id)


class DeliverLane(Lane):
    """SEGMENTED → DELIVERED, for one Peer; as many of them as it takes Associations at once."""

    def __init__(
        self,
        number: int,
        in_hand: InHand,
        deliveries: DeliveryStore,
        outbox: Outbox,
        peer: Peer,
        calling_ae_title: AETitle,
        pauses: Pauses,
        confirming: Confirming | None,
    ) -> None:
        """confirming: how the Peer confirms what it stored; None where it is not asked."""
        super().__init__(f"deliver {peer.name} {number}")
        self._in_hand, self._deliveries, self._outbox = in_hand, deliveries, outbox
        self._peer, self._calling_ae_title = peer, calling_ae_title
        self._pauses, self._confirming = pauses, confirming

    def step(self) -> float:
        with self._in_hand.take(self._deliveries, self._peer.name) as (taken, is_new):
            if taken is None:
                return IDLE_SECONDS
            if is_new:
                self._send(*taken)
            elif self._confirming is not None:
                self._say(self._confirming.look(*taken))
            else:  # the Peer was asked to confirm by a configuration of before
                words = "not confirmed: the Peer is not asked any more"
                self._say(self._each(taken[1], words))
        return AT_ONCE

    def _each(self, deliveries: Sequence[Delivery], words: str) -> list[Job | None]:
        return [self._deliveries.unconfirmable(one, words, time.time()) for one in deliveries]

    def _send(self, job: Job, deliveries: Sequence[Delivery]) -> None:
        uids = [one.sop_instance_uid for one in deliveries]
        try:
            answers = pipeline.deliver(
                job.id, uids, self._outbox, self._peer, self._calling_ae_title
            )
        except Exception as error:
            reason = "".join(traceback.format_exception(error))
            answers = [Stored(uid, Outcome.PERMANENT, reason) for uid in uids]
        self._record(job, list(zip(deliveries, answers, strict=True)))

    def _record(self, job: Job, answers: Sequence[tuple[Delivery, Stored]]) -> None:
        """What the Peer answered to each object; asks it to confirm what it stored."""
        now, confirming = time.time(), self._confirming
        transaction = confirming.begin([one for one, _ in answers], now) if confirming else ""
        owed = 0
        for one, answer in answers:
            if answer.outcome is Outcome.TEMPORARY:
                self._retry(one, answer.answer)
            elif answer.outcome is Outcome.PERMANENT:
                log.error("the peer refuses an object", **_names(one), answer=answer.answer)
                self._say([self._deliveries.failed(one, answer.answer, now)])
            elif confirming is not None:
                confirming.owed(one, answer.answer, transaction, now)
                owed += 1
            else:
                log.info("delivered", **_names(one), answer=answer.answer)
                self._say([self._deliveries.delivered(one, answer.answer, now)])
        if owed and confirming is not None:
            self._say(confirming.ask(job, transaction))

    def _retry(self, one: Delivery, answer: str) -> None:
        if self._stopping.is_set():
            self._deliveries.give_back(one)
            return
        wait = self._pauses.after(one.attempts)
        self._deliveries.retry(one, time.time() + wait, answer, time.time())
        log.warning(
            "delivery will be tried again",
            **_names(one),
            answer=answer,
            in_seconds=round(wait, 1),
        )

    def _say(self, finished: Sequence[Job | None]) -> None:
        for one in finished:
            if one is not None:
                tell_state(one)


def _names(one: Delivery) -> dict[str, object]:
    """What a log line says of a Delivery."""
    return {"job": one.job_id, "object": one.kind.value, "peer": one.peer}
