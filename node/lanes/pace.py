"""So many questions a second, and no more."""

import time
from collections.abc import Callable


class Pace:
    """Spreads what is asked of a Peer evenly: a burst would be what it is meant to spare."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._apart, self._clock = 1.0 / per_second, clock
        self._next_at = float("-inf")

    def wait_seconds(self) -> float:
        """How long until the next may be put."""
        return max(0.0, self._next_at - self._clock())

    def put(self, count: int) -> None:
        """So many were put just now."""
        self._next_at = max(self._next_at, self._clock()) + count * self._apart
