"""The lane that gives a result to Peers whose Route came to its Job after it was made."""

import time
from collections.abc import Mapping, Sequence

import structlog

from node.core.result import ObjectRef, ResultKind, Wants
from node.core.wants import wanted
from node.lanes.lane import AT_ONCE, IDLE_SECONDS, Lane, Wake
from node.store.jobs import JobStore
from node.store.recipients import RecipientStore

log = structlog.get_logger()


class GiveLane(Lane):
    """Of the objects that were made they get what they want, or else the first Segmentation."""

    def __init__(
        self,
        recipients: RecipientStore,
        jobs: JobStore,
        wants: Mapping[str, Wants],
        on_given: Wake,
    ) -> None:
        super().__init__("give")
        self._recipients, self._jobs = recipients, jobs
        self._wants, self._on_given = wants, on_given

    def step(self) -> float:
        waiting = self._recipients.waiting()
        if waiting is None:
            return IDLE_SECONDS
        job, peers = waiting
        objects = self._jobs.objects(job.id)
        gets = {peer: self._of(objects, peer) for peer in peers}
        self._recipients.give(job.id, gets, time.time())
        log.info("result given to more peers", job=job.id, peers=peers)
        self._on_given()
        return AT_ONCE

    def _of(self, objects: Sequence[ObjectRef], peer: str) -> Sequence[ObjectRef]:
        wants = self._wants.get(peer, Wants())
        found = wanted(wants, objects)
        if found or wants.segmentation is None:
            return found
        forms = [one.form for one in objects if one.kind is ResultKind.SEGMENTATION]
        kinds = (ResultKind.SEGMENTATION, ResultKind.REPORT)
        return [one for one in objects if one.form in forms[:1] and one.kind in kinds]
