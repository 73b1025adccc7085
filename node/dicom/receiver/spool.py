"""incoming/: names that sort by completion, and a small file for how each Association ended.

    TIME-ASSOCIATION-NUMBER.dcm   an Instance, safe
    TIME-ASSOCIATION.end          the Association is over; sorts after all its Instances
    ASSOCIATION-NUMBER.part       not whole yet, or a half of a crash

TIME: nanoseconds since 1970 in 20 digits, never twice the same. ASSOCIATION: [0-9a-z.]+, unique
over restarts.
"""

import json
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

# incomplete: released, but something that was sent over it is not here
# idle: all that was begun is here, then the peer said nothing for so long that we aborted it
Ending = Literal["released", "incomplete", "idle", "aborted", "lost"]


@dataclass(frozen=True)
class AssociationRecord:
    """An Association that has begun. Times are seconds since 1970."""

    association: str
    calling_ae_title: str
    address: str
    began_at: float


class Clock:
    """Times for names: each later than all before it, and than all that lie in the folder."""

    def __init__(self, folder: Path) -> None:
        self._lock = threading.Lock()
        stamps = (path.name.partition("-")[0] for path in folder.iterdir())
        self._last = max((int(s) for s in stamps if s.isdigit()), default=0)

    def stamp(self) -> str:
        with self._lock:
            self._last = max(self._last + 1, time.time_ns())
            return f"{self._last:020d}"


def write_end(folder: Path, clock: Clock, begun: AssociationRecord, ending: Ending) -> Path:
    """Tells the reader of incoming/ that an Association is over, and how.

    Not fsynced; where a power cut leaves its name without its bytes, it is read as lost.
    """
    record = asdict(begun) | {"ending": ending, "ended_at": time.time()}
    half = folder / f"{begun.association}.end.part"
    half.write_text(json.dumps(record), encoding="utf-8")
    final = folder / f"{clock.stamp()}-{begun.association}.end"
    half.rename(final)
    return final
