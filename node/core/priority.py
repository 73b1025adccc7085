"""Who waits when there are fewer processors than work."""

import contextlib
import os
import threading
from typing import Final

RECORDING: Final = 5  # after the receiving process, for which a sender waits, and …
INFERENCE: Final = 10  # … before the networks, which would hold every core for minutes


def give_way(nice: int) -> None:
    """Lets others go before this thread and those it starts, for good (Linux: per thread)."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
