"""Deleting what was kept long enough: marked in the database first, then taken from the disk."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from node.core.names import JobId, SeriesInstanceUID
from node.dicom.trash import Trash
from node.store.retention import Due, Periods, RetentionStore

_DAY = 86_400.0
_LEFT = "marked before, and left on disk by a crash"


@dataclass(frozen=True)
class Purged:
    """What was deleted, or would be. what: "series", "result" (of a Job) or "aside"."""

    what: str
    name: str
    size_bytes: int
    why: str


def purge(store: RetentionStore, trash: Trash, periods: Periods, now: float) -> Iterator[Purged]:
    """Deletes what is due. May run twice, beside itself, and after a crash anywhere.

    Raises OSError where the disk refuses.
    """
    why: dict[str, str] = {}
    while marked := store.mark_series(periods, now):
        why |= _why(marked)
    yield from _sweep_series(store, trash, why)
    why = _why(store.mark_jobs(trash.jobs(), periods, now))
    yield from _sweep_jobs(store, trash, why)
    for one in _aside(trash, periods, now):
        trash.delete_aside(one[0])
        yield one[1]
    trash.empty()


def would_purge(
    store: RetentionStore, trash: Trash, periods: Periods, now: float
) -> Iterator[Purged]:
    """What `purge` would delete now; changes nothing."""
    due = _why(store.due_series(periods, now))
    due |= dict.fromkeys(store.marked_series(trash.series()), _LEFT)
    for uid, why in due.items():
        yield Purged("series", uid, trash.series_bytes(SeriesInstanceUID(uid)), why)
    due = _why(store.due_jobs(trash.jobs(), periods, now))
    due |= {str(job_id): _LEFT for job_id in store.marked_jobs(trash.jobs())}
    for name, why in due.items():
        yield Purged("result", name, trash.job_bytes(JobId(int(name))), why)
    yield from (purged for _, purged in _aside(trash, periods, now))


def _sweep_series(store: RetentionStore, trash: Trash, why: dict[str, str]) -> Iterator[Purged]:
    for uid in sorted(store.marked_series(trash.series())):
        with store.holding_series(uid) as marked:  # else a late Instance opened it again
            size = trash.take_series(uid) if marked else None
        if size is not None:
            yield Purged("series", uid, size, why.get(uid, _LEFT))


def _sweep_jobs(store: RetentionStore, trash: Trash, why: dict[str, str]) -> Iterator[Purged]:
    for job_id in sorted(store.marked_jobs(trash.jobs())):
        with store.holding_job(job_id) as marked:  # else it was run again
            size = trash.take_job(job_id) if marked else None
        if size is not None:
            yield Purged("result", str(job_id), size, why.get(str(job_id), _LEFT))


def _aside(trash: Trash, periods: Periods, now: float) -> Iterator[tuple[Path, Purged]]:
    if days := periods.failed_days:
        for path, size in trash.set_aside_before(now - days * _DAY):
            yield path, Purged("aside", path.name, size, f"set aside more than {days:g} days ago")


def _why(due: list[Due]) -> dict[str, str]:
    return {one.name: one.why for one in due}
