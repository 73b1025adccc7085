"""Whether the wall clock may be believed where belief deletes files."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from node.dicom.inbox import write_durably

HOUR, DAY = 3600.0, 86_400.0
UNSEEN_SECONDS: Final = HOUR  # the clock may gain so much on the time that passed between two looks
OFF_SECONDS: Final = DAY  # … or across a start: a node that was off for longer looks like a jump
HOLD_SECONDS: Final = DAY  # so long a person has to set it right

Clock = Callable[[], float]


def steady() -> float:
    """A clock that nobody sets, s; it runs while the machine sleeps, where the system has one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@dataclass(frozen=True)
class Looked:
    """What a look at the clock found; seconds.

    ahead: by how much it was set forward. hold: for how long nothing is deleted on its word.
    """

    wall: float
    steady: float
    ahead: float = 0.0
    hold: float = 0.0


def looked(before: Looked, wall: float, steady: float, allowed: float = UNSEEN_SECONDS) -> Looked:
    """The next look. Set back again it is believed at once; what stays is believed after a day."""
    passed = max(steady - before.steady, 0.0)
    unseen = wall - before.wall - passed
    ahead = unseen if before.hold <= 0 else before.ahead + unseen
    hold = HOLD_SECONDS if unseen > allowed else before.hold - passed
    if hold <= 0 or ahead <= UNSEEN_SECONDS:
        return Looked(wall, steady)
    return Looked(wall, steady, ahead, hold)


class WatchedClock:
    """The wall clock, looked at now and then; what was seen is kept in a file across starts."""

    def __init__(self, path: Path, wall: Clock = time.time, steady: Clock = steady) -> None:
        self._path, self._wall, self._steady = path, wall, steady
        self._before: Looked | None = None

    def look(self) -> Looked:
        """Raises OSError where it cannot be kept."""
        wall, now = self._wall(), self._steady()
        if self._before is not None:
            found = looked(self._before, wall, now)
        elif (kept := self._kept()) is not None:
            # The steady clock of another boot says nothing: all that passed since went unseen.
            unseen = Looked(kept.wall, now, kept.ahead, kept.hold)
            found = looked(unseen, wall, now, OFF_SECONDS)
        else:
            found = Looked(wall, now)
        self._keep(found)
        self._before = found
        return found

    def _kept(self) -> Looked | None:
        try:
            return Looked(**{k: float(v) for k, v in json.loads(self._path.read_bytes()).items()})
        except (OSError, ValueError, TypeError, AttributeError):  # of the first start, or damaged
            return None

    def _keep(self, found: Looked) -> None:
        self._path.with_suffix(".part").unlink(missing_ok=True)  # half of a crash
        write_durably(self._path, json.dumps(asdict(found)).encode())
