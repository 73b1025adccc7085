"""How many connections and Associations there may be at once, in all and per peer."""

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Final

SAID_AGAIN_SECONDS: Final = 10.0
_SAID_HELD: Final = 1000
WAITING: Final = 32  # connections that have not asked for an Association yet


class Limits:
    """Counts Associations by calling AE title, and connections that say nothing.

    A connection that says nothing never keeps out one that does: when too many wait, the one that
    has been silent longest is closed.
    """

    def __init__(self, in_all: int, per_peer: int) -> None:
        self._in_all, self._per_peer = in_all, per_peer
        self._lock = threading.Lock()
        self._open: Counter[str] = Counter()
        self._waiting: OrderedDict[object, Callable[[], None]] = OrderedDict()

    def connected(self, key: object, close: Callable[[], None]) -> None:
        """A connection has come."""
        with self._lock:
            self._waiting[key] = close
            oldest = None
            if len(self._waiting) > WAITING:
                _, oldest = self._waiting.popitem(last=False)
        if oldest is not None:
            oldest()

    def disconnected(self, key: object) -> None:
        """A connection waits no longer: it is gone, or has asked."""
        with self._lock:
            self._waiting.pop(key, None)

    def enter(self, calling_ae_title: str) -> str | None:
        """One more Association; or why not."""
        with self._lock:
            if self._open.total() >= self._in_all:
                return f"dicom.max_associations = {self._in_all} are open"
            if self._open[calling_ae_title] >= self._per_peer:
                return f"dicom.max_associations_per_peer = {self._per_peer} are open"
            self._open[calling_ae_title] += 1
            return None

    def leave(self, calling_ae_title: str) -> None:
        """One Association less."""
        with self._lock:
            self._open[calling_ae_title] -= 1
            self._open += Counter()  # forgets those with none


class Seldom:
    """Lets the same thing be said of one address once in a while: a flood fills no log."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._said: OrderedDict[tuple[str, str], float] = OrderedDict()

    def may_say(self, what: str, address: str) -> bool:
        now = time.monotonic()
        with self._lock:
            said = self._said.get((what, address))
            if said is not None and now < said + SAID_AGAIN_SECONDS:
                return False
            self._said[what, address] = now
            self._said.move_to_end((what, address))
            if len(self._said) > _SAID_HELD:
                self._said.popitem(last=False)
            return True
