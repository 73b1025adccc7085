"""The lane that tells Peers which want to know that a Series has no result, and why."""

import time
from collections.abc import Mapping

import structlog

from node import pipeline
from node.core.errors import Temporary
from node.core.job import Job
from node.core.model import Model
from node.core.result import Wants
from node.core.wants import wanted
from node.dicom.inbox import Inbox
from node.dicom.outbox import Outbox
from node.lanes.lane import AT_ONCE, IDLE_SECONDS, Lane, Wake
from node.store.jobs import JobStore
from node.store.recipients import RecipientStore
from node.store.series import SeriesStore

log = structlog.get_logger()

AGAIN_SECONDS = 60.0  # before a report that cannot be written is tried again


class RefusalLane(Lane):
    """Of Jobs that are REJECTED, or FAILED without a result."""

    def __init__(
        self,
        recipients: RecipientStore,
        jobs: JobStore,
        inbox: Inbox,
        series: SeriesStore,
        outbox: Outbox,
        models: Mapping[str, Model],
        wants: Mapping[str, Wants],
        on_refused: Wake,
    ) -> None:
        super().__init__("refuse")
        self._recipients, self._jobs, self._series = recipients, jobs, series
        self._inbox, self._outbox = inbox, outbox
        self._models, self._wants, self._on_refused = models, wants, on_refused

    def step(self) -> float:
        job = self._recipients.refused()
        if job is None:
            return IDLE_SECONDS
        told = {
            peer: self._wants[peer]
            for peer in job.recipients
            if peer in self._wants and self._wants[peer].refusal_report
        }
        if not told or self._jobs.objects(job.id):  # a result that a Peer refused is one
            self._recipients.tell(job, (), {}, time.time())
        else:
            return self._tell(job, told)
        return AT_ONCE

    def _tell(self, job: Job, told: Mapping[str, Wants]) -> float:
        try:
            refs = pipeline.refuse(job, self._inbox, self._series, self._outbox, self._models)
        except (OSError, Temporary) as error:  # a full disk, say
            log.warning("no refusal report can be made yet", job=job.id, reason=str(error))
            return AGAIN_SECONDS
        except Exception as error:  # of this Job; the others may be well
            note = f"no refusal report can be made: {error}"
            log.warning("no refusal report can be made", job=job.id, reason=repr(error))
            self._recipients.tell(job, (), {}, time.time(), note)
            return AT_ONCE
        gets = {peer: wanted(wants, refs) for peer, wants in told.items()}
        self._recipients.tell(job, refs, gets, time.time())
        self._on_refused()
        return AT_ONCE
