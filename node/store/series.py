"""Series and their Instances: open, then closed on evidence together with the Jobs they start."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Engine, RowMapping, or_, select, update

from node.core.job import Job
from node.core.names import AETitle, SeriesInstanceUID
from node.core.verdict import Verdict
from node.store import arrivals, bringers, waiting
from node.store.arrivals import AssociationEnd, Held, StoredInstance
from node.store.database import writing
from node.store.orders import JobOrder, insert_job
from node.store.tables import (
    association,
    conflict,
    instance,
    job_series,
    series,
    series_association,
)
from node.store.waiting import ChannelFit, Waiting

__all__ = ["SeriesStore", "StoredInstance", "StoredSeries"]


@dataclass(frozen=True)
class OpenSeries:
    """What says when an open Series is worth a look. revision: of all that a judgement reads."""

    series_instance_uid: SeriesInstanceUID
    study_instance_uid: str
    calling_ae_title: AETitle
    revision: int
    instances: int
    last_received_at: float
    is_arriving: bool


@dataclass(frozen=True)
class Brought:
    """One Instance as evidence. bringers: each Association that brought it, and how that ended.

    An ending is None while the Association is open.
    """

    sop_instance_uid: str
    number: int | None
    parts: int | None
    planes: Sequence[Mapping[str, Any]]
    bringers: Sequence[tuple[str, str | None]]
    sop_class_uid: str
    path: str


@dataclass(frozen=True)
class Described:
    """What a header says of one Instance that is held. planes: see dicom/planes.py."""

    sop_instance_uid: str
    planes: Sequence[Mapping[str, Any]]
    number: int | None
    parts: int | None


@dataclass(frozen=True)
class StoredAssociation:
    """One peer conversation. ending: as the receiver tells it; None while it is open."""

    id: str
    calling_ae_title: AETitle
    began_at: float
    ended_at: float | None
    ending: str | None


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
    revision: int = 0
    verdict: Verdict | None = None
    findings: Sequence[Mapping[str, Any]] = ()
    counts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    purged_at: float | None = None


class SeriesStore:
    """The Series of one data folder."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writing = writing(engine)

    # -- what comes

    def add(self, received: StoredInstance, now: float) -> str | None:
        """Records one Instance; None where it is new, else the SHA-256 of what is held already."""
        (held,) = self.add_all([received], (), now)
        return held.sha256 if held else None

    def add_all(
        self, received: Sequence[StoredInstance], ends: Sequence[AssociationEnd], now: float
    ) -> list[Held | None]:
        """Records Instances, then how Associations ended, in one transaction. See arrivals."""
        with self._writing.begin() as connection:
            held = arrivals.add_all(connection, received, now)
            for end in ends:
                arrivals.end_association(connection, end)
            return held

    def lose_open_associations(self, began_before: float, now: float) -> int:
        """After a start: what the process before had open is lost. Returns how many."""
        with self._writing.begin() as connection:
            return arrivals.lose_open_associations(connection, began_before, now)

    def add_count(
        self, uid: SeriesInstanceUID, peer: str, answer: Mapping[str, Any], now: float
    ) -> None:
        """What a Peer said of an open Series, in place of what it said before."""
        with self._writing.begin() as connection:
            row = connection.execute(
                select(series.c.counts).where(
                    series.c.series_instance_uid == uid, series.c.closed_at.is_(None)
                )
            ).one_or_none()
            if row is not None and not _is_said_again(row.counts.get(peer), answer):
                counts = dict(row.counts) | {peer: dict(answer) | {"at": now}}
                connection.execute(
                    update(series)
                    .where(series.c.series_instance_uid == uid)
                    .values(counts=counts, revision=series.c.revision + 1)
                )

    def tell(
        self, seen: StoredSeries, evidence: str, findings: Sequence[Mapping[str, Any]]
    ) -> None:
        """On what a Series is still open, for people; changes nothing else."""
        with self._writing.begin() as connection:
            connection.execute(
                update(series)
                .where(
                    series.c.series_instance_uid == seen.series_instance_uid,
                    series.c.closed_at.is_(None),
                    series.c.revision == seen.revision,
                )
                .values(evidence=evidence, findings=list(findings))
            )

    # -- what is open

    def open_series(self) -> list[OpenSeries]:
        """What must be known of each open Series to decide when to look at it."""
        arriving = (
            select(series_association.c.series_instance_uid)
            .join(association, association.c.id == series_association.c.association)
            .where(association.c.ended_at.is_(None))
        )
        with self._engine.connect() as connection:
            rows = connection.execute(
                select(
                    series.c.series_instance_uid,
                    series.c.study_instance_uid,
                    series.c.calling_ae_title,
                    series.c.revision,
                    series.c.instances,
                    series.c.last_received_at,
                    series.c.series_instance_uid.in_(arriving).label("is_arriving"),
                ).where(series.c.closed_at.is_(None))
            ).mappings()
            return [OpenSeries(**row) for row in rows]

    def brought(self, uid: SeriesInstanceUID) -> list[Brought]:
        """Each Instance of a Series with its Planes and the Associations that brought it."""
        with self._engine.connect() as connection:
            rows = connection.execute(
                select(
                    instance.c.sop_instance_uid,
                    instance.c.number,
                    instance.c.parts,
                    instance.c.planes,
                    instance.c.association,
                    association.c.ending,
                    instance.c.sop_class_uid,
                    instance.c.path,
                )
                .outerjoin(association, association.c.id == instance.c.association)
                .where(instance.c.series_instance_uid == uid)
                .order_by(instance.c.sop_instance_uid)
            ).all()
            again = bringers.of_series(connection, uid)
        return [
            Brought(
                *row[:4],
                bringers=([(row[4], row[5])] if row[4] else []) + list(again.get(row[0], ())),
                sop_class_uid=row.sop_class_uid,
                path=row.path,
            )
            for row in rows
        ]

    def describe(self, uid: SeriesInstanceUID, found: Sequence[Described]) -> None:
        """Notes what an earlier version did not; the Instances are the same."""
        with self._writing.begin() as connection:
            for one in found:
                connection.execute(
                    update(instance)
                    .where(
                        instance.c.series_instance_uid == uid,
                        instance.c.sop_instance_uid == one.sop_instance_uid,
                    )
                    .values(planes=list(one.planes), number=one.number, parts=one.parts)
                )

    def associations(self, uid: SeriesInstanceUID) -> list[StoredAssociation]:
        """The Associations that brought something of a Series, the earliest first."""
        with self._engine.connect() as connection:
            rows = connection.execute(
                select(association)
                .join(series_association, series_association.c.association == association.c.id)
                .where(series_association.c.series_instance_uid == uid)
                .order_by(association.c.began_at, association.c.id)
            ).mappings()
            return [StoredAssociation(**row) for row in rows]

    def conflicts(self, uid: SeriesInstanceUID) -> list[Mapping[str, Any]]:
        """Instances that came again with other bytes, which lie in aside/."""
        with self._engine.connect() as connection:
            rows = connection.execute(
                select(conflict)
                .where(conflict.c.series_instance_uid == uid)
                .order_by(conflict.c.received_at)
            ).mappings()
            return [dict(row) for row in rows]

    def close(
        self,
        seen: StoredSeries,
        evidence: str,
        routing: str,
        orders: Sequence[JobOrder],
        now: float,
        channel_fits: Sequence[ChannelFit] = (),
        *,
        verdict: Verdict | None = None,
        findings: Sequence[Mapping[str, Any]] = (),
    ) -> list[Job] | None:
        """Closes a Series and starts its Jobs in one transaction.

        channel_fits: what it is to Routes whose Models read several Series. Those Jobs start once
        each channel has one.

        None where something came after `seen` was read: the Series is still open then.
        """
        with self._writing.begin() as connection:
            closed = connection.execute(
                update(series)
                .where(
                    series.c.series_instance_uid == seen.series_instance_uid,
                    series.c.closed_at.is_(None),
                    series.c.revision == seen.revision,
                )
                .values(
                    closed_at=now,
                    evidence=evidence,
                    routing=routing,
                    verdict=verdict,
                    findings=list(findings),
                )
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
                    .values(
                        closed_at=None,
                        evidence=None,
                        routing=None,
                        verdict=None,
                        findings=[],
                        counts={},
                        revision=series.c.revision + 1,
                    )
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

    def still_open(self, limit: int) -> list[StoredSeries]:
        """Series that are not closed yet, the latest first."""
        return self._list(series.c.closed_at.is_(None), limit=limit)

    def unrouted(self, limit: int) -> list[StoredSeries]:
        """Closed Series that started no Job, the latest first."""
        has_job = (
            select(job_series.c.job_id)
            .where(job_series.c.series_instance_uid == series.c.series_instance_uid)
            .exists()
        )
        return self._list(
            series.c.closed_at.is_not(None),
            ~has_job,
            limit=limit,
        )

    def instances(self, uid: SeriesInstanceUID) -> list[StoredInstance]:
        """The Instances of one Series in the order of their SOP Instance UIDs, without planes."""
        without_planes = [one for one in instance.columns if one is not instance.c.planes]
        with self._engine.connect() as connection:
            rows = connection.execute(
                select(*without_planes, series.c.study_instance_uid, series.c.modality)
                .join(series, series.c.series_instance_uid == instance.c.series_instance_uid)
                .where(instance.c.series_instance_uid == uid)
                .order_by(instance.c.sop_instance_uid)
            ).mappings()
            return [StoredInstance(**row) for row in rows]

    def _list(
        self, *conditions: ColumnElement[bool], limit: int | None = None
    ) -> list[StoredSeries]:
        with self._engine.connect() as connection:
            rows = connection.execute(
                select(series)
                .where(*conditions)
                .order_by(series.c.last_received_at.desc())
                .limit(limit)
            ).mappings()
            return [_series(row) for row in rows]


def _is_said_again(before: Mapping[str, Any] | None, answer: Mapping[str, Any]) -> bool:
    """E.g. by a Peer that is down: no reason to judge the Series anew."""
    return before is not None and dict(before) | {"at": None} == dict(answer) | {"at": None}


def _series(row: RowMapping) -> StoredSeries:
    verdict = Verdict(row["verdict"]) if row["verdict"] else None
    return StoredSeries(**dict(row) | {"verdict": verdict})
