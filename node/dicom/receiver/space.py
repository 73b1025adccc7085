"""How full the disk is: two marks, and who is told when one is passed."""

import os
import threading
import time
from pathlib import Path

from node.dicom.receiver.reports import Reports
from node.dicom.receiver.status import OUT_OF_RESOURCES, Refused

_WATCH_SECONDS = 5.0
_LOOK_EVERY = 16 << 20  # bytes of all Instances together between two looks
_ENOUGH = 1.05  # above a mark by this factor, or it would begin and end with every Instance


class FreeSpace:
    """Of one data folder. Below min_free_bytes Instances are refused, below low_free_bytes told."""

    def __init__(
        self, folder: Path, min_free_bytes: int, low_free_bytes: int, reports: Reports
    ) -> None:
        self._folder, self._reports = folder, reports
        self._min, self._low = min_free_bytes, low_free_bytes
        self._lock = threading.Lock()
        self._is_full = self._is_low = False
        self._not_looked = 0  # bytes that have come since the last look

    def require(self) -> None:
        """Raises Refused (A700) where too little is left."""
        free = self.look()
        if self._is_full or free < self._min:
            raise Refused(OUT_OF_RESOURCES, f"only {free // 1_000_000} MB are free")

    def take(self, count: int) -> None:
        """So many bytes more of an Instance are coming. Raises Refused (A700)."""
        with self._lock:
            self._not_looked += count
            look = self._is_full or self._not_looked > _LOOK_EVERY
        if look:
            self.require()

    def look(self) -> int:
        """Bytes that are free; says once when a mark is passed, either way."""
        held = os.statvfs(self._folder)
        free = held.f_bavail * held.f_frsize
        with self._lock:
            self._not_looked = 0
            self._judge(free)
        return free

    def watch(self) -> None:
        """Looks from time to time, for ever."""
        while True:
            time.sleep(_WATCH_SECONDS)
            try:
                self.look()
            except OSError as error:  # a share that is away comes back
                self._reports.error("free space cannot be read", reason=str(error.strerror))

    def _judge(self, free: int) -> None:
        full = free < self._min * (_ENOUGH if self._is_full else 1.0)
        if full != self._is_full:
            self._is_full = full
            said = "instances are refused until" if full else "instances are accepted again:"
            self._reports.error(
                f"the disk is {'' if full else 'no longer '}full: {said} node.min_free_mb are free",
                free_mb=free // 1_000_000,
                min_free_mb=self._min // 1_000_000,
            )
        low = free < self._low * (_ENOUGH if self._is_low else 1.0)
        if low != self._is_low:
            self._is_low = low
            self._reports.warning(
                "the disk is getting full" if low else "the disk has room again",
                free_mb=free // 1_000_000,
                low_free_mb=self._low // 1_000_000,
            )
