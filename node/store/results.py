"""The result objects of a Job, and which of them are due to whom."""

from collections.abc import Mapping, Sequence

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    and_,
    delete,
    exists,
    insert,
    not_,
    select,
    update,
)

from node.core.names import JobId, SeriesInstanceUID, SOPInstanceUID
from node.core.result import ObjectRef, ResultKind
from node.store.tables import delivery, recipient, result

Gets = Mapping[str, Sequence[ObjectRef]]  # by Peer, in the order in which they are sent
ANEW: Mapping[str, object] = {
    "attempts": 0,
    "answer": None,
    "stored_at": None,
    "transaction_uid": None,
    "lost_at": None,
    "done_at": None,
    "failed_at": None,
}
_REPLACED = "replaced by a later attempt of the Job"


def record_results(
    connection: Connection, job_id: JobId, objects: Sequence[ObjectRef], gets: Gets, now: float
) -> None:
    """A Job has made these objects, and no others; each is due to the Peers that get it."""
    _replace(connection, job_id, [one.sop_instance_uid for one in objects], now)
    known = set(connection.scalars(select(result.c.sop_instance_uid).where(_of(job_id))))
    rows = [_row(job_id, one) for one in objects if one.sop_instance_uid not in known]
    if rows:
        connection.execute(insert(result), rows)
    give(connection, job_id, gets, now)


def replace_results(connection: Connection, job_id: JobId, now: float) -> None:
    """The Job runs again: nothing that it made before is its result any more."""
    _replace(connection, job_id, (), now)


def give(connection: Connection, job_id: JobId, gets: Gets, now: float) -> None:
    """These objects are due to these Peers."""
    for peer, refs in gets.items():
        connection.execute(
            update(recipient)
            .where(recipient.c.job_id == job_id, recipient.c.peer == peer)
            .values(given_at=now)
        )
        for one in refs:
            _due(connection, job_id, peer, one, now)


def objects_of(connection: Connection, job_id: JobId) -> list[ObjectRef]:
    """The objects that a Job has made at its last attempt."""
    return _refs(connection, _of(job_id), result.c.replaced_at.is_(None))


def given_of(connection: Connection, job_id: JobId, peer: str | None = None) -> list[ObjectRef]:
    """The objects of a Job, of earlier attempts too, that some Peer may have, or this one."""
    return _refs(connection, _of(job_id), _given(peer))


def of_current() -> ColumnElement[bool]:
    """Of a Delivery: its object was made at the Job's last attempt."""
    return exists().where(
        result.c.job_id == delivery.c.job_id,
        result.c.sop_instance_uid == delivery.c.sop_instance_uid,
        result.c.replaced_at.is_(None),
    )


def _refs(connection: Connection, *which: ColumnElement[bool]) -> list[ObjectRef]:
    order = list(ResultKind)
    found = [_ref(row) for row in connection.execute(select(result).where(*which)).mappings()]
    return sorted(found, key=lambda one: (order.index(one.kind), one.form, one.sop_instance_uid))


def _replace(connection: Connection, job_id: JobId, uids: Sequence[str], now: float) -> None:
    """All objects but these are of before: known where a Peer may have them, else forgotten."""
    others = and_(delivery.c.job_id == job_id, delivery.c.sop_instance_uid.not_in(uids))
    connection.execute(delete(delivery).where(others, delivery.c.tried_at.is_(None)))
    connection.execute(
        update(delivery)
        .where(others, delivery.c.done_at.is_(None))
        .values(done_at=now, failed_at=None, answer=_REPLACED)
    )
    before = and_(_of(job_id), result.c.sop_instance_uid.not_in(uids))
    connection.execute(delete(result).where(before, not_(_given())))
    connection.execute(
        update(result).where(before, result.c.replaced_at.is_(None)).values(replaced_at=now)
    )
    connection.execute(
        update(result)
        .where(_of(job_id), result.c.sop_instance_uid.in_(uids))
        .values(replaced_at=None)
    )


def _due(connection: Connection, job_id: JobId, peer: str, ref: ObjectRef, now: float) -> None:
    mine = and_(
        delivery.c.job_id == job_id,
        delivery.c.peer == peer,
        delivery.c.sop_instance_uid == ref.sop_instance_uid,
    )
    again = connection.execute(update(delivery).where(mine).values(**ANEW, not_before=now))
    if again.rowcount == 0:
        connection.execute(
            insert(delivery).values(
                job_id=job_id,
                peer=peer,
                kind=ref.kind,
                sop_instance_uid=ref.sop_instance_uid,
                attempts=0,
                not_before=now,
            )
        )


def _of(job_id: JobId) -> ColumnElement[bool]:
    return result.c.job_id == job_id


def _given(peer: str | None = None) -> ColumnElement[bool]:
    return exists().where(
        delivery.c.job_id == result.c.job_id,
        delivery.c.sop_instance_uid == result.c.sop_instance_uid,
        delivery.c.tried_at.is_not(None),
        *([delivery.c.peer == peer] if peer is not None else []),
    )


def _row(job_id: JobId, ref: ObjectRef) -> dict[str, object]:
    return {
        "job_id": job_id,
        "sop_instance_uid": ref.sop_instance_uid,
        "series_instance_uid": ref.series_instance_uid,
        "sop_class_uid": ref.sop_class_uid,
        "kind": ref.kind,
        "form": ref.form,
    }


def _ref(row: RowMapping) -> ObjectRef:
    return ObjectRef(
        ResultKind(row["kind"]),
        row["form"],
        row["sop_class_uid"],
        SeriesInstanceUID(row["series_instance_uid"]),
        SOPInstanceUID(row["sop_instance_uid"]),
    )
