"""What the receiving process tells the node: log events, and that something new lies on disk."""

import contextlib
import json
import os
import threading
from typing import Final

Value = str | int | float | bool | None
LOG: Final = "log"
READY: Final = "ready"
OPENED: Final = "opened"
ENDED: Final = "ended"


class Reports:
    """Lines of JSON into a pipe, and a wake-up that costs one system call.

    The node writes the log: one format, one place. A node that is gone is no reason to fail.
    """

    def __init__(self, lines: int, wakeup: int) -> None:
        self._lines, self._wakeup = lines, wakeup
        self._lock = threading.Lock()

    def info(self, event: str, **fields: Value) -> None:
        self.tell(LOG, level="info", event=event, fields=fields)

    def warning(self, event: str, **fields: Value) -> None:
        self.tell(LOG, level="warning", event=event, fields=fields)

    def error(self, event: str, **fields: Value) -> None:
        self.tell(LOG, level="error", event=event, fields=fields)

    def tell(self, kind: str, **what: object) -> None:
        """One line."""
        line = json.dumps({"kind": kind, **what}).encode() + b"\n"
        with self._lock, contextlib.suppress(OSError):
            while line:
                line = line[os.write(self._lines, line) :]

    def wake(self) -> None:
        """Something new lies in incoming/."""
        with contextlib.suppress(OSError):
            os.eventfd_write(self._wakeup, 1)
