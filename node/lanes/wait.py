"""The lane that refuses Jobs of several Series whose last channel did not come in time."""

import time
from collections.abc import Sequence

from node.lanes.lane import IDLE_SECONDS, Lane
from node.lanes.tell import tell_state
from node.store.channel_orders import ChannelRoute
from node.store.waiting import WaitingStore


class WaitLane(Lane):
    """Series that wait for another → REJECTED, naming the channel that is missing."""

    def __init__(self, waiting: WaitingStore, routes: Sequence[ChannelRoute]) -> None:
        super().__init__("wait")
        self._waiting, self._routes = waiting, routes

    def step(self) -> float:
        for job in self._waiting.refuse_due(self._routes, time.time()):
            tell_state(job)
        return IDLE_SECONDS
