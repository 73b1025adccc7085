"""Lanes: each takes due work of one kind, runs its step, and records the outcome.

One thread per lane, so that the network never waits for an absent PACS and a slow Peer never
for another. Only here everything is caught: the class of the error says what becomes of the work.
"""

import random
import threading
import time
import traceback
from collections.abc import Callable, Mapping

import structlog

from node import pipeline
from node.core.errors import Fatal, SeriesRejected, StaleState, Temporary
from node.core.job import Delivery, Job, JobEvent, JobState, backoff_seconds
from node.core.model import Engine, Model
from node.core.names import AETitle
from node.core.uids import result_uids
from node.dicom.inbox import Inbox
from node.dicom.outbox import Outbox
from node.dicom.scu import Peer
from node.store.deliveries import DeliveryStore
from node.store.jobs import JobStore
from node.watch import JobsInHand, JobWatch

log = structlog.get_logger()

AT_ONCE = 0.0
IDLE_SECONDS = 1.0  # how soon a lane sees what another process (`segnode jobs rerun`) changed
PAUSE_SECONDS = 2.0  # after an error that no step accounts for, e.g. a full disk

Wake = Callable[[], None]


class Lane(threading.Thread):
    """Runs `step` again and again; it returns how many seconds to wait, unless woken."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._wake = threading.Event()
        self._stopping = threading.Event()

    def step(self) -> float:
        raise NotImplementedError

    def wake(self) -> None:
        """There may be work."""
        self._wake.set()

    def request_stop(self) -> None:
        """Ends the lane after the step at hand."""
        self._stopping.set()
        self._wake.set()

    def run(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                seconds = self.step()
            except Exception:
                log.exception("a lane stumbled and goes on", lane=self.name)
                seconds = PAUSE_SECONDS
            if seconds > 0:
                self._wake.wait(seconds)


class SegmentLane(Lane):
    """QUEUED → SEGMENTED. As many of them as Jobs may be under way at once."""

    def __init__(
        self,
        name: str,
        in_hand: JobsInHand,
        jobs: JobStore,
        inbox: Inbox,
        outbox: Outbox,
        models: Mapping[str, Model],
        engine: Engine,
        max_attempts: int,
        on_segmented: Wake,
    ) -> None:
        super().__init__(name)
        self._in_hand = in_hand
        self._jobs, self._inbox, self._outbox = jobs, inbox, outbox
        self._models, self._engine = models, engine
        self._max_attempts, self._on_segmented = max_attempts, on_segmented

    def step(self) -> float:
        with self._in_hand.take(self._jobs, time.time()) as job:
            if job is None:
                return IDLE_SECONDS
            try:
                self._run(job)
            except StaleState as error:
                log.info("the job was changed meanwhile; its work is dropped", reason=str(error))
        return AT_ONCE

    def _run(self, job: Job) -> None:
        if job.attempts > self._max_attempts:  # each of them ended the process
            self._fail(job, f"{self._max_attempts} attempts ended without an answer")
            return
        watch = JobWatch(self._jobs, job)
        try:
            job = self._with_current_model(job)
            pipeline.segment(
                job,
                self._inbox,
                self._outbox,
                self._models,
                self._engine,
                watch,
                self._jobs.predecessor(job),
            )
        except Exception as error:
            self._record_failure(job, error)
            return
        finally:
            watch.finish()
        self._move(job, JobEvent.SEGMENT, None)
        self._on_segmented()

    def _with_current_model(self, job: Job) -> Job:
        model = self._models.get(job.model)
        if model is None:
            raise Fatal(f'model "{job.model}" is no longer in the configuration')
        if model.fingerprint == job.model_fingerprint:
            return job
        uids = result_uids(job.input_fingerprint, model.fingerprint)
        return self._jobs.stamp(job, model.fingerprint, uids, time.time())

    def _record_failure(self, job: Job, error: Exception) -> None:
        if isinstance(error, StaleState):
            raise error
        if self._stopping.is_set():
            self._jobs.give_back(job, time.time())
        elif isinstance(error, SeriesRejected):
            self._move(job, JobEvent.REJECT, str(error))
        elif isinstance(error, Temporary | OSError) and job.attempts < self._max_attempts:
            # At random, or jobs that failed together would meet again.
            wait = backoff_seconds(job.attempts, 1.0, 60.0, random.random())
            self._jobs.retry(job, time.time() + wait, str(error), time.time())
            log.warning("job will be tried again", job=job.id, reason=str(error), in_seconds=wait)
        elif isinstance(error, Temporary | Fatal | OSError):
            self._fail(job, str(error))
        else:
            self._fail(job, "".join(traceback.format_exception(error)))

    def _fail(self, job: Job, reason: str) -> None:
        self._move(job, JobEvent.FAIL, reason)

    def _move(self, job: Job, event: JobEvent, reason: str | None) -> None:
        moved = self._jobs.transition(job.id, JobState.QUEUED, event, time.time(), reason)
        log.info(
            f"job {moved.state}",
            job=job.id,
            series_instance_uid=job.series_instance_uids[0],
            model=job.model,
            reason=reason,
        )


class DeliverLane(Lane):
    """SEGMENTED → DELIVERED, for one Peer."""

    def __init__(
        self,
        deliveries: DeliveryStore,
        outbox: Outbox,
        peer: Peer,
        calling_ae_title: AETitle,
        retry_first_seconds: float,
        retry_max_seconds: float,
    ) -> None:
        super().__init__(f"deliver {peer.name}")
        self._deliveries, self._outbox = deliveries, outbox
        self._peer, self._calling_ae_title = peer, calling_ae_title
        self._retry_first_seconds = retry_first_seconds
        self._retry_max_seconds = retry_max_seconds

    def step(self) -> float:
        taken = self._deliveries.take(self._peer.name, time.time())
        if taken is None:
            return IDLE_SECONDS
        self._run(*taken)
        return AT_ONCE

    def _run(self, job: Job, delivery: Delivery) -> None:
        try:
            answer = pipeline.deliver(job, self._outbox, self._peer, self._calling_ae_title)
        except Temporary as error:
            self._retry(delivery, str(error))
        except Fatal as error:
            self._settled(job, self._deliveries.failed(delivery, str(error), time.time()))
        except Exception as error:
            reason = "".join(traceback.format_exception(error))
            self._settled(job, self._deliveries.failed(delivery, reason, time.time()))
        else:
            self._settled(job, self._deliveries.delivered(delivery, answer, time.time()))

    def _retry(self, delivery: Delivery, answer: str) -> None:
        if self._stopping.is_set():
            self._deliveries.give_back(delivery)
            return
        wait = backoff_seconds(
            delivery.attempts, self._retry_first_seconds, self._retry_max_seconds, random.random()
        )
        self._deliveries.retry(delivery, time.time() + wait, answer, time.time())
        log.warning(
            "delivery will be tried again",
            job=delivery.job_id,
            peer=delivery.peer,
            answer=answer,
            in_seconds=round(wait, 1),
        )

    def _settled(self, job: Job, finished: Job | None) -> None:
        log.info("delivery settled", job=job.id, peer=self._peer.name)
        if finished is not None:
            log.info(
                f"job {finished.state}",
                job=job.id,
                series_instance_uid=job.series_instance_uids[0],
                reason=finished.reason,
            )
