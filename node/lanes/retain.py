"""The lane that deletes what was kept long enough."""

import time

import structlog

from node.dicom.trash import Trash
from node.lanes.lane import Lane
from node.retention import purge
from node.store.retention import Periods, RetentionStore

log = structlog.get_logger()

EVERY_SECONDS = 3600.0


class RetentionLane(Lane):
    """Deletes what is due, at the start and every hour."""

    def __init__(self, store: RetentionStore, trash: Trash, periods: Periods) -> None:
        super().__init__("retention")
        self._store, self._trash, self._periods = store, trash, periods

    def step(self) -> float:
        count = size = 0
        try:
            for purged in purge(self._store, self._trash, self._periods, time.time()):
                log.info("purged", **vars(purged))
                count, size = count + 1, size + purged.size_bytes
        except OSError as error:  # said once an hour, not every few seconds
            log.error("files cannot be deleted", error=str(error))
        if count:
            log.info("purge ended", things=count, megabytes=size // 1_000_000)
        return EVERY_SECONDS
