"""Who waits when there are fewer processors than work."""

import contextlib
import os
import threading
from typing import Final

_NICE: Final = 10


def give_way() -> None:
    """Lets other threads and processes go before this thread, for good (Linux: per thread)."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
