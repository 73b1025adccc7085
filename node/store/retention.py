"""Which files have been kept long enough. Rows stay, and say when their files were deleted.

That (purged_at, the empty path of an Instance) is written in the transaction that finds a Series
or a Job due, so nothing is marked that another transaction needs. The files go afterwards: a crash
in between leaves files that the next purge finds, never a row that promises what is gone.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Engine,
    and_,
    exists,
    func,
    select,
    update,
)

from node.core.job import JobState
from node.core.names import JobId, SeriesInstanceUID
from node.core.result import ResultKind
from node.store.database import writing
from node.store.rows import jobs_of_series, log_event
from node.store.tables import delivery, instance, job, job_series, series, waiting

T = TypeVar("T")

AT_ONCE = 20  # Series marked in one transaction, which others wait for
_CHUNK = 500  # values in one IN (…)
_DAY = 86_400.0
_OPEN = (JobState.QUEUED, JobState.SEGMENTED)
_ENDED = (JobState.FAILED, JobState.REJECTED, JobState.CANCELLED)


@dataclass(frozen=True)
class Periods:
    """For how many days files are kept; 0: for ever."""

    delivered_days: float
    failed_days: float
    unrouted_days: float


@dataclass(frozen=True)
class Due:
    """A Series (its UID) or a Job (its number) whose files may go, and why."""

    name: str
    why: str


class RetentionStore:
    """What may be deleted of one data folder."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writing = writing(engine)

    def due_series(self, periods: Periods, now: float) -> list[Due]:
        """The closed Series whose instance files nobody needs any more."""
        with self._engine.connect() as connection:
            return _due_series(connection, periods, now, None)

    def mark_series(self, periods: Periods, now: float) -> list[Due]:
        """Some of `due_series`, whose files are deleted from now on; none once all are marked."""
        with self._writing.begin() as connection:
            due = _due_series(connection, periods, now, AT_ONCE)
            for one in due:
                _mark_series(connection, SeriesInstanceUID(one.name), one.why, now)
            return due

    def due_jobs(self, with_files: Collection[JobId], periods: Periods, now: float) -> list[Due]:
        """Those of the given Jobs whose result files nobody needs any more."""
        with self._engine.connect() as connection:
            return _due_jobs(connection, with_files, periods, now)

    def mark_jobs(self, with_files: Collection[JobId], periods: Periods, now: float) -> list[Due]:
        """All of `due_jobs`, whose files are deleted from now on."""
        with self._writing.begin() as connection:
            due = _due_jobs(connection, with_files, periods, now)
            for one in due:
                job_id = JobId(int(one.name))
                connection.execute(update(job).where(job.c.id == job_id).values(purged_at=now))
                detail = f"the result files are deleted: {one.why}"
                log_event(connection, job_id, now, "PURGE", None, None, detail)
            return due

    def marked_series(self, uids: Collection[SeriesInstanceUID]) -> set[SeriesInstanceUID]:
        """Those of the given Series that are marked."""
        with self._engine.connect() as connection:
            return {
                SeriesInstanceUID(uid)
                for chunk in _chunks(sorted(uids))
                for uid in connection.scalars(
                    select(series.c.series_instance_uid).where(
                        series.c.series_instance_uid.in_(chunk), series.c.purged_at.is_not(None)
                    )
                )
            }

    def marked_jobs(self, ids: Collection[JobId]) -> set[JobId]:
        """Those of the given Jobs that are marked."""
        with self._engine.connect() as connection:
            return {
                JobId(found)
                for chunk in _chunks(sorted(ids))
                for found in connection.scalars(
                    select(job.c.id).where(job.c.id.in_(chunk), job.c.purged_at.is_not(None))
                )
            }

    @contextmanager
    def holding_series(self, uid: SeriesInstanceUID) -> Iterator[bool]:
        """Whether the Series is still marked; while entered no late Instance can be recorded."""
        with self._holding(series.c.purged_at, series.c.series_instance_uid == uid) as marked:
            yield marked

    @contextmanager
    def holding_job(self, job_id: JobId) -> Iterator[bool]:
        """Whether the Job is still marked; while entered it cannot be run again."""
        with self._holding(job.c.purged_at, job.c.id == job_id) as marked:
            yield marked

    @contextmanager
    def _holding(self, mark: Column[float], which: ColumnElement[bool]) -> Iterator[bool]:
        with self._writing.begin() as connection:
            yield connection.scalar(select(mark).where(which)) is not None


def _due_series(
    connection: Connection, periods: Periods, now: float, limit: int | None
) -> list[Due]:
    found: list[Due] = []
    for days, kind, why in _series_kinds(periods):
        since = func.max(series.c.closed_at, func.coalesce(_last_change(), 0.0))
        rows = connection.scalars(
            select(series.c.series_instance_uid)
            .where(
                series.c.closed_at <= now - days * _DAY,
                series.c.purged_at.is_(None),
                since <= now - days * _DAY,
                ~_waits(),
                kind,
            )
            .order_by(series.c.closed_at)
            .limit(limit)
        )
        found += [Due(uid, why) for uid in rows]
    return found[:limit]


def _series_kinds(periods: Periods) -> Iterator[tuple[float, ColumnElement[bool], str]]:
    """How long, which, and why in words. A Job that a later one supersedes does not count."""
    latest = job.c.id.not_in(select(job.c.supersedes).where(job.c.supersedes.is_not(None)))
    has_job, is_open = _has_job(), _has_job(job.c.state.in_(_OPEN))
    ended = _has_job(job.c.state.in_(_ENDED), latest)
    if days := periods.unrouted_days:
        yield days, ~has_job, f"unrouted for more than {days:g} days"
    if days := periods.failed_days:
        why = f"failed, refused or cancelled more than {days:g} days ago"
        yield days, and_(ended, ~is_open), why
    if days := periods.delivered_days:
        why = f"delivered more than {days:g} days ago"
        yield days, and_(has_job, ~ended, ~is_open), why


def _has_job(*which: ColumnElement[bool]) -> ColumnElement[bool]:
    return exists().where(
        job_series.c.series_instance_uid == series.c.series_instance_uid,
        job.c.id == job_series.c.job_id,
        *which,
    )


def _last_change() -> ColumnElement[float]:
    return (
        select(func.max(job.c.updated_at))
        .join(job_series, job_series.c.job_id == job.c.id)
        .where(job_series.c.series_instance_uid == series.c.series_instance_uid)
        .scalar_subquery()
    )


def _waits() -> ColumnElement[bool]:
    """It fits a channel, and it or another Series of its study waits for the same Route."""
    mine, other = waiting.alias("mine"), waiting.alias("other")
    return exists().where(
        mine.c.series_instance_uid == series.c.series_instance_uid,
        other.c.study_instance_uid == mine.c.study_instance_uid,
        other.c.route == mine.c.route,
        other.c.done_at.is_(None),
    )


def _mark_series(connection: Connection, uid: SeriesInstanceUID, why: str, now: float) -> None:
    mine = series.c.series_instance_uid == uid
    connection.execute(update(series).where(mine).values(purged_at=now))
    gone = update(instance).where(instance.c.series_instance_uid == uid)
    connection.execute(gone.values(path=""))
    for one in jobs_of_series(connection, uid):
        detail = f"the instance files of Series {uid} are deleted: {why}"
        log_event(connection, one.id, now, "PURGE", None, None, detail)


def _due_jobs(
    connection: Connection, with_files: Collection[JobId], periods: Periods, now: float
) -> list[Due]:
    kinds = [
        (periods.delivered_days, (JobState.DELIVERED,), "delivered"),
        (periods.failed_days, _ENDED, "failed, refused or cancelled"),
    ]
    return [
        Due(str(found), f"{what} more than {days:g} days ago")
        for days, states, what in kinds
        if days
        for chunk in _chunks(sorted(with_files))
        for found in connection.scalars(
            select(job.c.id).where(
                job.c.id.in_(chunk),
                job.c.state.in_(states),
                job.c.purged_at.is_(None),
                job.c.updated_at <= now - days * _DAY,
                ~_tells_a_refusal(),
            )
        )
    ]


def _tells_a_refusal() -> ColumnElement[bool]:
    """A Peer has still to be told that the Job has no result."""
    return exists().where(
        delivery.c.job_id == job.c.id,
        delivery.c.kind == ResultKind.REFUSAL,
        delivery.c.done_at.is_(None),
        delivery.c.failed_at.is_(None),
    )


def _chunks(values: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), _CHUNK):
        yield values[start : start + _CHUNK]
