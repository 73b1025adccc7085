"""The Jobs that the segment lanes have in hand: which ones, and how far each is."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from node.core.errors import StaleState
from node.core.job import Job
from node.core.model import Progress
from node.core.names import JobId
from node.store.jobs import JobStore

log = structlog.get_logger()

_TELL_SECONDS = 1.0  # between two looks at a Job that is being predicted


class JobsInHand:
    """What one lane of this process works on, no other takes."""

    def __init__(self) -> None:
        self._ids: set[JobId] = set()
        self._taking = threading.Lock()

    @contextmanager
    def take(self, jobs: JobStore, now: float) -> Iterator[Job | None]:
        """The Job that is due the longest and in no other lane's hand, for as long as entered."""
        with self._taking:
            job = jobs.take_queued(now, self._ids)
            if job is not None:
                self._ids.add(job.id)
        try:
            yield job
        finally:
            if job is not None:
                with self._taking:
                    self._ids.remove(job.id)


class JobWatch:
    """Notes which stage a Job is in, how far, and what each stage took, s. See pipeline.Watch."""

    def __init__(self, jobs: JobStore, job: Job) -> None:
        self._jobs, self._job = jobs, job
        self._stage: str | None = None
        self._since = time.monotonic()
        self._told_at = 0.0
        self._timings: dict[str, float] = {}

    def enter(self, stage: str | None) -> None:
        """The stage before it has ended."""
        now = time.monotonic()
        if self._stage is not None:
            before = self._timings.get(self._stage, 0.0)  # each object is encoded and verified
            self._timings[self._stage] = round(before + now - self._since, 3)
        self._stage, self._since = stage, now
        self._jobs.set_stage(self._job.id, stage, self._timings)

    def tell(self, progress: Progress) -> None:
        """Raises StaleState within about a second of a Job's end by another hand."""
        try:
            self._write(progress)
        except StaleState:
            raise
        except Exception as error:  # a busy database; no reason to lose a prediction
            log.warning("progress is not written", job=self._job.id, error=str(error))

    def _write(self, progress: Progress) -> None:
        if progress.note is not None:
            log.warning("job noted", job=self._job.id, model=self._job.model, note=progress.note)
            self._jobs.note(self._job.id, progress.note, time.time())
        now = time.monotonic()
        if now - self._told_at >= _TELL_SECONDS:
            self._told_at = now
            self._jobs.set_progress(self._job.id, f"{self._stage} {progress.done * 100:.0f} %")

    def finish(self) -> None:
        """The work on the Job has ended, one way or another."""
        self.enter(None)
