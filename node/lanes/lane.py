"""Lanes: each takes due work of one kind, runs its step, and records the outcome.

One thread per lane, so that the network never waits for an absent PACS and a slow Peer never
for another. Only here everything is caught: the class of the error says what becomes of the work.
"""

import threading
from collections.abc import Callable

import structlog

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
