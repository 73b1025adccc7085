"""Series and their Instances: open, then closed on evidence together with the Jobs they start."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    RowMapping,
    and_,
    func,
    insert,
    or_,
    select,
    update,
)

from node.core.job import Job, JobEvent, JobState
from node.core.names import AETitle, SeriesInstanceUID, SOPInstanceUID
from node.core.verdict import Verdict
from node.store import waiting
from node.store.database import writing
from node.store.orders import JobOrder, insert_job
from node.store.rows import jobs_of_series, transition
from node.store.tables import instance, job_series, series
from node.store.waiting import ChannelFit, Waiting


@dataclass(frozen=True)
class StoredInstance:
    """One Instance on disk. path: relative to the data folder. sha256: of its data set."""

    series_instance_uid: SeriesInstanceUID
    study_instance_uid: str
    sop_instance_uid: SOPInstanceUID
    sop_class_uid: str
    modality: str
    transfer_syntax_uid: str
    sha256: str
    size_bytes: int
    path: str
    calling_ae_title: AETitle
    received_at: float
    association: str | None = None
    planes: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class StoredSeries:
    """What is known of a Series. Open while `closed_at` is None."""

    series_instance_uid: SeriesInstanceUID
    study_instance_uid: str
    modality: str
    calling_ae_title: AETitle
    first_received_at: float
    last_received_at: float
    closed_at: float | None
    evidence: str | None
    routing: str | None
    instances: int
    verdict: Verdict | None = None
    look_at: float | None = None
    counts: Sequence[Mapping[str, Any]] = ()
    purged_at: float | None = None


class SeriesStore:
    """The Series of one data folder."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writing = writing(engine)

    def add(self, received: StoredInstance, now: float) -> str | None:
        """Records an Instance; a Series that was closed opens again and its queued Jobs end.

        Returns None where it is new, else the SHA-256 of the one that is held already. One whose
        file was deleted (see retention) is new.
        """
        mine = and_(
            instance.c.series_instance_uid == received.series_instance_uid,
            instance.c.sop_instance_uid == received.sop_instance_uid,
        )
        with self._writing.begin() as connection:
            held = connection.execute(
                select(instance.c.sha256, instance.c.path).where(mine)
            ).one_or_none()
            if held is not None and held.path:
                return str(held.sha256)
            self._touch(connection, received, now)
            row = _instance_row(received)
            if held is None:
                connection.execute(insert(instance).values(row))
            else:
                connection.execute(update(instance).where(mine).values(row))
            return None

    def _touch(self, connection: Connection, received: StoredInstance, now: float) -> None:
        row = connection.execute(
            select(series.c.closed_at).where(
                series.c.series_instance_uid == received.series_instance_uid
            )
        ).one_or_none()
        if row is None:
            connection.execute(insert(series).values(_series_row(received, now)))
            return
        if row.closed_at is not None:
            waiting.leave(connection, received.series_instance_uid)
            _cancel_queued(connection, received.series_instance_uid, now)
        connection.execute(
            update(series)
            .where(series.c.series_instance_uid == received.series_instance_uid)
            .values(
                last_received_at=now, closed_at=None, evidence=None, routing=None, purged_at=None
            )
        )

    def restart_quiet_period(self, now: float) -> int:
        """After a start: what is open may still be on its way again. Returns how many are open."""
        with self._writing.begin() as connection:
            return connection.execute(
                update(series).where(series.c.closed_at.is_(None)).values(last_received_at=now)
            ).rowcount

    def quiet_since(self, moment: float) -> list[StoredSeries]:
        """Open Series whose last Instance came at or before `moment`."""
        return self._list(series.c.closed_at.is_(None), series.c.last_received_at <= moment)

    def next_to_be_quiet(self) -> float | None:
        """When the Series that is open and silent for the longest got its last Instance."""
        with self._engine.connect() as connection:
            oldest = select(func.min(series.c.last_received_at)).where(series.c.closed_at.is_(None))
            moment: float | None = connection.scalar(oldest)
            return moment

    def close(
        self,
        seen: StoredSeries,
        evidence: str,
        routing: str,
        orders: Sequence[JobOrder],
        now: float,
        channel_fits: Sequence[ChannelFit] = (),
    ) -> list[Job] | None:
        """Closes a Series and starts its Jobs in one transaction.

        channel_fits: what it is to Routes whose Models read several Series. Those Jobs start once
        each channel has one.

        None where an Instance came after `seen` was read: the Series is still open then.
        """
        with self._writing.begin() as connection:
            closed = connection.execute(
                update(series)
                .where(
                    series.c.series_instance_uid == seen.series_instance_uid,
                    series.c.closed_at.is_(None),
                    series.c.last_received_at == seen.last_received_at,
                )
                .values(closed_at=now, evidence=evidence, routing=routing)
            )
            if closed.rowcount == 0:
                return None
            jobs = [insert_job(connection, order, now) for order in orders]
            uid, study = seen.series_instance_uid, seen.study_instance_uid
            jobs += waiting.enter(connection, uid, study, channel_fits, now)
            return [job for job in jobs if job is not None]

    def reopen(self, uid: SeriesInstanceUID, now: float) -> bool:
        """Lets a closed Series be closed and routed anew, e.g. after a route was added."""
        with self._writing.begin() as connection:
            waiting.leave(connection, uid)
            return (
                connection.execute(
                    update(series)
                    .where(series.c.series_instance_uid == uid, series.c.closed_at.is_not(None))
                    .values(closed_at=None, evidence=None, routing=None, last_received_at=now)
                ).rowcount
                == 1
            )

    def get(self, uid: str) -> StoredSeries | None:
        """The Series with this Series Instance UID."""
        found = self._list(series.c.series_instance_uid == uid)
        return found[0] if found else None

    def find(self, uid: str) -> list[StoredSeries]:
        """The Series that a Series, Study or SOP Instance UID belongs to."""
        of_instance = select(instance.c.series_instance_uid).where(
            instance.c.sop_instance_uid == uid
        )
        return self._list(
            or_(
                series.c.series_instance_uid == uid,
                series.c.study_instance_uid == uid,
                series.c.series_instance_uid.in_(of_instance),
            )
        )

    def waits(self, uid: SeriesInstanceUID) -> list[Waiting]:
        """Which channels of which Routes this Series fits, where those need other Series, too."""
        with self._engine.connect() as connection:
            return waiting.of_series(connection, uid)

    def unrouted(self, limit: int) -> list[StoredSeries]:
        """Closed Series that started no Job, the latest first."""
        with_jobs = select(job_series.c.series_instance_uid)
        return self._list(
            series.c.closed_at.is_not(None),
            series.c.series_instance_uid.not_in(with_jobs),
            limit=limit,
        )

    def instances(self, uid: SeriesInstanceUID) -> list[StoredInstance]:
        """The Instances of one Series in the order of their SOP Instance UIDs."""
        with self._engine.connect() as connection:
            rows = connection.execute(
                select(instance, series.c.study_instance_uid, series.c.modality)
                .join(series, series.c.series_instance_uid == instance.c.series_instance_uid)
                .where(instance.c.series_instance_uid == uid)
                .order_by(instance.c.sop_instance_uid)
            ).mappings()
            return [StoredInstance(**row) for row in rows]

    def _list(
        self, *conditions: ColumnElement[bool], limit: int | None = None
    ) -> list[StoredSeries]:
        count = (
            select(func.count())
            .where(instance.c.series_instance_uid == series.c.series_instance_uid)
            .scalar_subquery()
        )
        with self._engine.connect() as connection:
            rows = connection.execute(
                select(series, count.label("instances"))
                .where(*conditions)
                .order_by(series.c.last_received_at.desc())
                .limit(limit)
            ).mappings()
            return [_series(row) for row in rows]


def _series(row: RowMapping) -> StoredSeries:
    verdict = Verdict(row["verdict"]) if row["verdict"] else None
    return StoredSeries(**dict(row) | {"verdict": verdict})


def _cancel_queued(connection: Connection, uid: SeriesInstanceUID, now: float) -> None:
    for queued in jobs_of_series(connection, uid):
        if queued.state is JobState.QUEUED:
            reason = "superseded: another Instance of the Series came"
            transition(connection, queued.id, queued.state, JobEvent.CANCEL, now, reason)


def _series_row(received: StoredInstance, now: float) -> Mapping[str, object]:
    return {
        "series_instance_uid": received.series_instance_uid,
        "study_instance_uid": received.study_instance_uid,
        "modality": received.modality,
        "calling_ae_title": received.calling_ae_title,
        "first_received_at": received.received_at,
        "last_received_at": now,
    }


def _instance_row(received: StoredInstance) -> Mapping[str, object]:
    return {column.name: getattr(received, column.name) for column in instance.columns}
