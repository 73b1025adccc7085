"""The lane that records what the receiver has kept."""

import time
from collections import deque
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import structlog

from node import pipeline
from node.core.priority import RECORDING, give_way
from node.dicom.inbox import Inbox
from node.lanes.lane import AT_ONCE, IDLE_SECONDS, Lane, Wake
from node.recording import ASIDE, ASKED, CONFLICT, NOT_YET, REPORTED, Commitment, Recorded
from node.store.series import SeriesStore

log = structlog.get_logger()

BATCH: Final = 100  # files per transaction: one fsync for all, and a short wait for the last one
# One commit for what comes within it. Each is an fsync of the disk that the receiver's wait for.
GATHER_SECONDS: Final = 0.1
READERS: Final = 2
LOOKS: Final = 10  # into incoming/ while so much is recorded as lay there at the first of them
_ALL: Final = "~"  # sorts after every name
AGAIN_SECONDS: Final = 5.0  # before a file that could not be recorded is tried again


class RecordLane(Lane):
    """incoming/ → rows and final places, in the order of arrival."""

    def __init__(
        self,
        inbox: Inbox,
        series: SeriesStore,
        on_recorded: Wake,
        commitment: Commitment | None = None,
        gather_seconds: float = 0.0,
    ) -> None:
        """gather_seconds: what has come waits so long for more, see GATHER_SECONDS."""
        super().__init__("record")
        self._inbox, self._series, self._on_recorded = inbox, series, on_recorded
        self._commitment, self._gather_seconds = commitment, gather_seconds
        self._reading = ThreadPoolExecutor(READERS, "read", give_way, (RECORDING,))
        self._started_at: float | None = time.time()
        self._done_as_of = float("-inf")  # monotonic: all that lay there then has been tried
        self._looks: deque[tuple[float, str]] = deque()  # when, and the last name there
        self._again: dict[Path, float] = {}  # monotonic
        self._unread: dict[Path, str] = {}

    def run(self) -> None:
        give_way(RECORDING)  # to the receiving process: a sender waits for that, for us nobody
        super().run()

    def has_recorded_as_of(self, moment: float) -> bool:
        """Whether all that lay in incoming/ at that monotonic moment has been recorded."""
        return self._done_as_of >= moment

    def unread(self) -> Collection[str]:
        """Associations of which something is safe on disk and cannot be recorded yet."""
        return set(self._unread.values())

    def step(self) -> float:
        """Records the earliest of what lies there, then looks again: what comes meanwhile waits."""
        if self._gather_seconds and 0 < len(self._inbox.arrived()) < BATCH:
            self._stopping.wait(self._gather_seconds)
        began = time.monotonic()
        arrived = self._inbox.arrived()
        self._forget_all_but(arrived)
        due = [path for path in arrived if self._again.get(path, began) <= began]
        self._looks.append((began, due[-1].name if due else ""))
        if not due:
            self._recorded_up_to(_ALL)
        now = max(BATCH, len(due) // LOOKS)
        for first in range(0, min(now, len(due)), BATCH):
            if self._stopping.is_set():
                return AT_ONCE
            batch = due[first : first + BATCH]
            self._record(batch)
            self._recorded_up_to(batch[-1].name if first + BATCH < len(due) else _ALL)
        return AT_ONCE if now < len(due) else IDLE_SECONDS

    def _recorded_up_to(self, name: str) -> None:
        """Names sort by arrival: all that a look found is recorded once its last one is."""
        while self._looks and self._looks[0][1] <= name:
            self._done_as_of = self._looks.popleft()[0]
            self._lose_what_was_open()
        self._on_recorded()

    def _record(self, paths: Sequence[Path]) -> None:
        recorded = pipeline.record(
            paths, self._inbox, self._series, time.time(), self._reading.map, self._commitment
        )
        for one in recorded:
            self._again.pop(one.path, None)
            self._unread.pop(one.path, None)
            if one.what in (CONFLICT, ASIDE):
                log.warning("instance set aside", file=one.path.name, why=one.detail)
            elif one.what in (ASKED, REPORTED):
                log.info(f"commitment {one.what}", detail=one.detail)
            elif one.what == NOT_YET:
                self._try_again(one)

    def _try_again(self, one: Recorded) -> None:
        log.error("instance cannot be recorded yet", file=one.path.name, error=one.detail)
        self._again[one.path] = time.monotonic() + AGAIN_SECONDS
        if one.association is not None:
            self._unread[one.path] = one.association

    def _forget_all_but(self, arrived: Sequence[Path]) -> None:
        if self._again:
            there = set(arrived)
            self._again = {path: at for path, at in self._again.items() if path in there}
            self._unread = {path: name for path, name in self._unread.items() if path in there}

    def _lose_what_was_open(self) -> None:
        """Once, when all is recorded that the process before left behind."""
        if self._started_at is not None:
            self._series.lose_open_associations(self._started_at, time.time())
            self._started_at = None
