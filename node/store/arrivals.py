"""What the receiver brings: Instances and the ends of Associations, many in one transaction."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    String,
    and_,
    cast,
    insert,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects.sqlite import insert as insert_or

from node.core.job import JobEvent, JobState
from node.core.names import AETitle, SeriesInstanceUID, SOPInstanceUID
from node.core.verdict import Verdict
from node.store import bringers, waiting
from node.store.rows import jobs_of_series, transition
from node.store.tables import association, conflict, instance, series, series_association

INCOMPLETE, LOST = "incomplete", "lost"
_AT_ONCE = 500  # values in one IN; SQLite takes 32,766


@dataclass(frozen=True)
class StoredInstance:
    """One Instance on disk. path: relative to the data folder. sha256: of its data set.

    association: that brought it, None where nobody knows. number: InstanceNumber. parts: of how
    many its concatenation consists, 0 where that is not said, None for no concatenation.
    """

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
    number: int | None = None
    parts: int | None = None
    file: str = ""  # its name while it was in incoming/


@dataclass(frozen=True)
class AssociationEnd:
    """How an Association ended; all that begin with `prefix` where its receiver died."""

    ending: str
    ended_at: float
    association: str | None = None
    prefix: str | None = None


@dataclass(frozen=True)
class Held:
    """What is held of an Instance that came again. aside: where these other bytes lie already."""

    sha256: str
    association: str | None
    aside: str | None = None


def add_all(
    connection: Connection, received: Sequence[StoredInstance], now: float
) -> list[Held | None]:
    """Records Instances; for each None where it is new, else what is held already.

    A Series that was closed opens again for a new Instance, and what it had started ends. One
    whose file was deleted (see retention) is new. One that comes again is vouched for by
    its Association, too: that is about being whole; other bytes are noted beside it.
    """
    _know_associations(connection, received)
    by_series: dict[SeriesInstanceUID, list[StoredInstance]] = defaultdict(list)
    for one in received:
        by_series[one.series_instance_uid].append(one)
    answers: dict[int, Held | None] = {}
    for uid, instances in by_series.items():
        for one, held in zip(instances, _add(connection, uid, instances, now), strict=True):
            answers[id(one)] = held
    return [answers[id(one)] for one in received]


def _add(
    connection: Connection, uid: SeriesInstanceUID, received: Sequence[StoredInstance], now: float
) -> list[Held | None]:
    known = _known(connection, uid, [one.sop_instance_uid for one in received])
    answers: list[Held | None] = []
    new: dict[str, StoredInstance] = {}
    replaced: set[str] = set()
    again: list[StoredInstance] = []
    conflicting: list[StoredInstance] = []
    for one in received:
        row = known.get(one.sop_instance_uid)
        if row is None or not row[1]:
            new[one.sop_instance_uid] = one
            if row is not None:
                replaced.add(one.sop_instance_uid)
            known[one.sop_instance_uid] = (one.sha256, one.path, one.association)
            answers.append(None)
            continue
        answers.append(Held(row[0], row[2]))
        (again if row[0] == one.sha256 else conflicting).append(one)
    if new:
        inserted = [one for sop, one in new.items() if sop not in replaced]
        _touch(connection, uid, received[0], len(inserted), now)
        if inserted:
            connection.execute(insert(instance), [_instance_row(one) for one in inserted])
        for sop in replaced:
            _replace(connection, uid, sop, new[sop])
    _vouch(connection, uid, [*again, *conflicting])
    if conflicting:
        _note_conflicts(connection, uid, conflicting)
        answers = _with_files(connection, uid, received, answers)
    _link(connection, uid, [*new.values(), *again, *conflicting])
    return answers


def _known(
    connection: Connection, uid: SeriesInstanceUID, sops: Iterable[str]
) -> dict[str, tuple[str, str, str | None]]:
    """SHA-256, path and Association of those that are held, by SOP Instance UID."""
    found: dict[str, tuple[str, str, str | None]] = {}
    for chunk in _chunks(list(dict.fromkeys(sops))):
        rows = connection.execute(
            select(
                instance.c.sop_instance_uid,
                instance.c.sha256,
                instance.c.path,
                instance.c.association,
            ).where(instance.c.series_instance_uid == uid, instance.c.sop_instance_uid.in_(chunk))
        )
        found |= {row[0]: (row[1], row[2], row[3]) for row in rows}
    return found


def _chunks(values: Sequence[str]) -> Iterable[Sequence[str]]:
    left = iter(values)
    while chunk := list(islice(left, _AT_ONCE)):
        yield chunk


def _touch(
    connection: Connection, uid: SeriesInstanceUID, first: StoredInstance, count: int, now: float
) -> None:
    """There is something new in the Series: it is open, from now on."""
    closed_at = connection.execute(
        select(series.c.closed_at).where(series.c.series_instance_uid == uid)
    ).one_or_none()
    if closed_at is None:
        connection.execute(insert(series).values(_series_row(first, count, now)))
        return
    if closed_at[0] is not None:
        waiting.leave(connection, uid)
        cancel_unfinished(connection, uid, now)
    connection.execute(
        update(series)
        .where(series.c.series_instance_uid == uid)
        .values(
            last_received_at=now,
            instances=series.c.instances + count,
            revision=series.c.revision + 1,
            closed_at=None,
            evidence=None,
            findings=[],
            routing=None,
            verdict=None,
            purged_at=None,
        )
    )


def cancel_unfinished(connection: Connection, uid: SeriesInstanceUID, now: float) -> None:
    """Ends what was started with fewer Instances: what is queued, and results not yet delivered."""
    for one in jobs_of_series(connection, uid):
        if one.state in (JobState.QUEUED, JobState.SEGMENTED):
            reason = "superseded: another Instance of the Series came"
            transition(connection, one.id, one.state, JobEvent.CANCEL, now, reason)


def _replace(
    connection: Connection, uid: SeriesInstanceUID, sop: str, received: StoredInstance
) -> None:
    bringers.forget(connection, uid, sop)
    connection.execute(
        update(instance)
        .where(instance.c.series_instance_uid == uid, instance.c.sop_instance_uid == sop)
        .values(_instance_row(received))
    )


def _vouch(connection: Connection, uid: SeriesInstanceUID, again: Sequence[StoredInstance]) -> None:
    """Each Association that brought an Instance may answer for it; the best one does."""
    brought = [(str(i.sop_instance_uid), i.association) for i in again if i.association is not None]
    if brought:
        bringers.vouch(connection, uid, brought)
        _revise(connection, [uid])


def _note_conflicts(
    connection: Connection, uid: SeriesInstanceUID, conflicting: Sequence[StoredInstance]
) -> None:
    rows = [
        {
            "series_instance_uid": uid,
            "sop_instance_uid": one.sop_instance_uid,
            "sha256": one.sha256,
            "calling_ae_title": one.calling_ae_title,
            "received_at": one.received_at,
            "file": one.file,
        }
        for one in conflicting
    ]
    connection.execute(insert_or(conflict).on_conflict_do_nothing(), rows)


def _with_files(
    connection: Connection,
    uid: SeriesInstanceUID,
    received: Sequence[StoredInstance],
    answers: Sequence[Held | None],
) -> list[Held | None]:
    """Names for other bytes the file that was first noted with them: it may be this very one."""
    noted: dict[tuple[str, str], str] = {}
    for chunk in _chunks(list(dict.fromkeys(one.sop_instance_uid for one in received))):
        rows = connection.execute(
            select(conflict.c.sop_instance_uid, conflict.c.sha256, conflict.c.file).where(
                conflict.c.series_instance_uid == uid, conflict.c.sop_instance_uid.in_(chunk)
            )
        )
        noted |= {(row[0], row[1]): row[2] for row in rows}
    return [
        held and replace(held, aside=noted.get((one.sop_instance_uid, one.sha256)))
        for one, held in zip(received, answers, strict=True)
    ]


def _link(
    connection: Connection, uid: SeriesInstanceUID, brought: Sequence[StoredInstance]
) -> None:
    ids = dict.fromkeys(one.association for one in brought if one.association is not None)
    if ids:
        rows = [{"series_instance_uid": uid, "association": one} for one in ids]
        connection.execute(insert_or(series_association).on_conflict_do_nothing(), rows)


def _know_associations(connection: Connection, received: Sequence[StoredInstance]) -> None:
    rows = {
        one.association: {
            "id": one.association,
            "calling_ae_title": one.calling_ae_title,
            "began_at": one.received_at,
        }
        for one in reversed(received)
        if one.association is not None
    }
    if rows:
        new = insert_or(association)
        told = {"calling_ae_title": new.excluded.calling_ae_title}
        ended_before = association.c.calling_ae_title == ""  # see _keep_for_later
        upsert = new.on_conflict_do_update(
            index_elements=[association.c.id], set_=told, where=ended_before
        )
        connection.execute(upsert, list(rows.values()))


def end_association(connection: Connection, end: AssociationEnd) -> None:
    """Notes how an Association ended, and lets what it brought be judged anew."""
    ids = _ending_ids(connection, end)
    if not ids and end.association is not None:
        _keep_for_later(connection, end.association, end)
    for one in ids:
        uids = list(
            connection.scalars(
                select(series_association.c.series_instance_uid).where(
                    series_association.c.association == one
                )
            )
        )
        _revise(connection, uids)
        _reopen_unproven(connection, uids, end.ending)


def _keep_for_later(connection: Connection, name: str, end: AssociationEnd) -> None:
    """Its Instances may be safe on disk and not recorded yet: they find it ended."""
    row = {
        "id": name,
        "calling_ae_title": "",
        "began_at": end.ended_at,
        "ended_at": end.ended_at,
        "ending": end.ending,
    }
    connection.execute(insert_or(association).on_conflict_do_nothing(), row)


def _ending_ids(connection: Connection, end: AssociationEnd) -> list[str]:
    """The Associations that end by this; one that was thought lost may turn out better."""
    is_open: ColumnElement[bool] = association.c.ended_at.is_(None)
    values = {"ending": end.ending, "ended_at": end.ended_at}
    if end.association is not None:
        which = association.c.id == end.association
        is_open = or_(is_open, association.c.ending == LOST)
    else:
        which = association.c.id.startswith(end.prefix or "", autoescape=True)
    return list(
        connection.scalars(
            update(association).where(which, is_open).values(values).returning(association.c.id)
        )
    )


def lose_open_associations(connection: Connection, began_before: float, now: float) -> int:
    """After a start: Associations of the process before can bring nothing more.

    One that began in the future is of before, too: the clock was set back in between.
    """
    of_before = or_(association.c.began_at < began_before, association.c.began_at > now)
    lost = connection.scalars(
        update(association)
        .where(association.c.ended_at.is_(None), of_before)
        .values(ending=LOST, ended_at=now)
        .returning(association.c.id)
    ).all()
    for one in lost:
        of_it = select(series_association.c.series_instance_uid).where(
            series_association.c.association == one
        )
        _revise(connection, list(connection.scalars(of_it)))
    return len(lost)


def _revise(connection: Connection, uids: Sequence[str]) -> None:
    for chunk in _chunks(uids):
        connection.execute(
            update(series)
            .where(series.c.series_instance_uid.in_(chunk))
            .values(revision=series.c.revision + 1)
        )


def _reopen_unproven(connection: Connection, uids: Sequence[str], ending: str) -> None:
    """A Series that was given up for want of evidence gets another judgement by new evidence.

    One that ended badly helps only where a Peer counts: it may hold the very same Instances.
    """
    may_help: ColumnElement[bool] = true()
    if ending not in (bringers.RELEASED, INCOMPLETE):
        may_help = cast(series.c.counts, String) != "{}"
    for chunk in _chunks(uids):
        again = connection.scalars(
            update(series)
            .where(
                and_(
                    series.c.series_instance_uid.in_(chunk),
                    series.c.closed_at.is_not(None),
                    series.c.verdict == Verdict.UNPROVEN,
                    series.c.purged_at.is_(None),
                    may_help,
                )
            )
            .values(closed_at=None)
            .returning(series.c.series_instance_uid)
        )
        for uid in again.all():
            waiting.leave(connection, SeriesInstanceUID(uid))


def _series_row(received: StoredInstance, count: int, now: float) -> Mapping[str, object]:
    return {
        "series_instance_uid": received.series_instance_uid,
        "study_instance_uid": received.study_instance_uid,
        "modality": received.modality,
        "calling_ae_title": received.calling_ae_title,
        "first_received_at": received.received_at,
        "last_received_at": now,
        "instances": count,
        "revision": 1,
    }


def _instance_row(received: StoredInstance) -> Mapping[str, object]:
    return {column.name: getattr(received, column.name) for column in instance.columns}
