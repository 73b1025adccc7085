"""The lanes that take queued Jobs through their Model."""

import random
import time
import traceback
from collections.abc import Mapping, Sequence

import structlog

from node import pipeline
from node.core.errors import Fatal, SeriesRejected, StaleState, Temporary
from node.core.job import Job, JobEvent, JobState, backoff_seconds
from node.core.model import Engine, Model
from node.core.result import ObjectRef, ResultKind, Wants
from node.core.uids import result_uids
from node.core.wants import wanted
from node.dicom.inbox import Inbox
from node.dicom.outbox import Outbox
from node.lanes.lane import AT_ONCE, IDLE_SECONDS, Lane, Wake
from node.lanes.tell import tell_state
from node.lanes.watch import JobsInHand, JobWatch
from node.store.jobs import JobStore

log = structlog.get_logger()


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
        wants: Mapping[str, Wants],
        max_attempts: int,
        on_segmented: Wake,
    ) -> None:
        """wants: which result objects each Peer gets, by its name."""
        super().__init__(name)
        self._in_hand = in_hand
        self._jobs, self._inbox, self._outbox = jobs, inbox, outbox
        self._models, self._engine, self._wants = models, engine, wants
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
            wants, rejects = self._wants_of(job), self._rejects(job)
            objects = self._segment(job, wants, rejects, watch)
        except Exception as error:
            self._record_failure(job, error)
            return
        finally:
            watch.finish()
        gets = {peer: wanted(one, objects, rejects[peer]) for peer, one in wants.items()}
        tell_state(self._jobs.segmented(job.id, objects, gets, time.time()))
        self._on_segmented()

    def _segment(
        self,
        job: Job,
        wants: Mapping[str, Wants],
        rejects: Mapping[str, Sequence[ObjectRef]],
        watch: JobWatch,
    ) -> list[ObjectRef]:
        return pipeline.segment(
            job,
            self._inbox,
            self._outbox,
            self._models,
            self._engine,
            list(wants.values()),
            watch,
            pipeline.Earlier(
                self._replaced(job),
                [rejects[peer] for peer, one in wants.items() if one.rejection_note],
                {one.sop_instance_uid for one in self._jobs.given(job.id)},
            ),
        )

    def _rejects(self, job: Job) -> Mapping[str, Sequence[ObjectRef]]:
        """By Peer: what it may have that this result takes the place of."""
        return {peer: self._replaced(job, peer) for peer in job.recipients}

    def _replaced(self, job: Job, peer: str | None = None) -> list[ObjectRef]:
        """What a Peer may have that this result takes the place of.

        Objects of an earlier Job, and those of this one that an earlier attempt made of another
        Model, or to say that there is no result.
        """
        own = [one for one in self._jobs.given(job.id, peer) if _is_of_before(one, job)]
        return [*self._jobs.given_before(job, peer), *own]

    def _wants_of(self, job: Job) -> Mapping[str, Wants]:
        """By Peer; one that was taken out of the configuration may come back to it."""
        return {peer: self._wants.get(peer, Wants()) for peer in job.recipients}

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
        tell_state(self._jobs.transition(job.id, JobState.QUEUED, event, time.time(), reason))


def _is_of_before(given: ObjectRef, job: Job) -> bool:
    """An object of this Job that its next attempt does not make again."""
    again = job.identity.uids(given.kind, given.form)
    return (
        given.kind is ResultKind.REFUSAL or given.series_instance_uid != again.series_instance_uid
    )
