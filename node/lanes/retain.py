"""The lane that deletes what was kept long enough."""

import structlog

from node.dicom.trash import Trash
from node.lanes.clock import WatchedClock
from node.lanes.lane import Lane
from node.retention import purge
from node.store.retention import Periods, RetentionStore

log = structlog.get_logger()

EVERY_SECONDS = 3600.0


class RetentionLane(Lane):
    """Deletes what is due, at the start and every hour, where the clock may be believed."""

    def __init__(
        self, store: RetentionStore, trash: Trash, periods: Periods, clock: WatchedClock
    ) -> None:
        super().__init__("retention")
        self._store, self._trash, self._periods = store, trash, periods
        self._clock = clock

    def step(self) -> float:
        try:
            if (now := self._believed()) is not None:
                self._purge(now)
        except OSError as error:  # said once an hour, not every few seconds
            log.error("files cannot be deleted", error=str(error))
        return EVERY_SECONDS

    def _believed(self) -> float | None:
        """The time; None while a clock that was set forward may still be set right."""
        found = self._clock.look()
        if found.hold <= 0:
            return found.wall
        log.warning(
            "nothing is deleted: the clock went forward by more than the time that was seen "
            "passing; set it right, or do nothing if it is right",
            hours_ahead=round(found.ahead / 3600, 1),
            believed_in_hours=round(found.hold / 3600, 1),
        )
        return None

    def _purge(self, now: float) -> None:
        count = size = 0
        try:
            for purged in purge(self._store, self._trash, self._periods, now):
                log.info("purged", **vars(purged))
                count, size = count + 1, size + purged.size_bytes
        finally:
            if count:
                log.info("purge ended", things=count, megabytes=size // 1_000_000)
