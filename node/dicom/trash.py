"""Files on their way out: a folder is renamed into trash/ as a whole, then deleted there.

So nobody ever reads half a Series. What is in trash/ may be deleted at any time, by anyone.
"""

import itertools
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from node.core.names import JobId, SeriesInstanceUID


class Trash:
    """The folders of one data folder that hold what is deleted some day."""

    def __init__(self, data_dir: Path) -> None:
        self._trash = data_dir / "trash"
        self._instances = data_dir / "instances"
        self._results = data_dir / "results"
        self._aside = data_dir / "aside"
        self._numbers = itertools.count()

    def series(self) -> set[SeriesInstanceUID]:
        """The Series that have files."""
        return {SeriesInstanceUID(name[1:]) for name in _names(self._instances) if name[0] == "s"}

    def jobs(self) -> set[JobId]:
        """The Jobs that have result files."""
        return {JobId(int(name)) for name in _names(self._results) if name.isdecimal()}

    def series_bytes(self, uid: SeriesInstanceUID) -> int:
        return _bytes(self._instances / f"s{uid}")

    def job_bytes(self, job_id: JobId) -> int:
        return _bytes(self._results / str(job_id))

    def take_series(self, uid: SeriesInstanceUID) -> int | None:
        """Takes the instance files of a Series; returns their bytes, None where there are none."""
        return self._take(self._instances / f"s{uid}")

    def take_job(self, job_id: JobId) -> int | None:
        """Takes the result files of a Job; returns their bytes, None where there are none."""
        return self._take(self._results / str(job_id))

    def set_aside_before(self, moment: float) -> Iterator[tuple[Path, int]]:
        """The files that were set aside before `moment` (since the epoch), with their bytes."""
        for name in sorted(_names(self._aside)):
            path = self._aside / name
            try:
                status = path.stat()
            except FileNotFoundError:  # somebody else was faster
                continue
            if status.st_mtime < moment:
                yield path, status.st_size

    def delete_aside(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def empty(self) -> None:
        """Deletes for good what was taken, now or before a crash. Raises OSError."""
        for name in _names(self._trash):
            try:
                shutil.rmtree(self._trash / name)
            except FileNotFoundError:  # another purge deletes the same
                continue

    def _take(self, folder: Path) -> int | None:
        self._trash.mkdir(exist_ok=True)
        unique = f"{folder.name}-{time.time_ns()}-{os.getpid()}-{next(self._numbers)}"
        size = _bytes(folder)
        try:
            folder.rename(self._trash / unique)
        except FileNotFoundError:
            return None
        return size


def _names(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return []


def _bytes(folder: Path) -> int:
    total = 0
    for name in _names(folder):
        try:
            total += (folder / name).stat().st_size
        except FileNotFoundError:  # it goes while we look
            continue
    return total
