"""The lane that refuses Jobs of several Series whose last channel did not come in time."""

import time
from collections.abc import Sequence

import structlog

from node.lanes.lane import IDLE_SECONDS, Lane
from node.store.channel_orders import ChannelRoute
from node.store.waiting import WaitingStore

log = structlog.get_logger()


class WaitLane(Lane):
    """Series that wait for another → REJECTED, naming the channel that is missing."""

    def __init__(self, waiting: WaitingStore, routes: Sequence[ChannelRoute]) -> None:
        super().__init__("wait")
        self._waiting, self._routes = waiting, routes

    def step(self) -> float:
        for job in self._waiting.refuse_due(self._routes, time.time()):
            log.info(
                f"job {job.state}",
                job=job.id,
                series_instance_uid=job.series_instance_uids[0],
                model=job.model,
                reason=job.reason,
            )
        return IDLE_SECONDS
