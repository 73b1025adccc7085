"""Deliveries: what is due to which Peer, and what the Peer answered."""

from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import ColumnElement, Connection, Engine, and_, func, or_, select, update

from node.core.delivery import Delivery
from node.core.job import Job, JobEvent, JobState, backoff_seconds
from node.core.names import JobId, SOPInstanceUID
from node.core.result import ResultKind
from node.store.database import writing
from node.store.rows import (
    log_event,
    select_deliveries,
    select_jobs,
    superseded,
    transition,
    waits_to_be_given,
)
from node.store.tables import delivery, job, job_series, recipient, series

_UNSETTLED = and_(delivery.c.done_at.is_(None), delivery.c.failed_at.is_(None))
_OPEN = and_(_UNSETTLED, delivery.c.stored_at.is_(None))
_STORED = and_(_UNSETTLED, delivery.c.stored_at.is_not(None))
# A result is delivered while its Job is SEGMENTED; that there is none, once it is refused and as
# long as no other Job reads the same Series.
_MAY_GO = or_(
    and_(delivery.c.kind != ResultKind.REFUSAL, job.c.state == JobState.SEGMENTED),
    and_(
        delivery.c.kind == ResultKind.REFUSAL,
        job.c.state.in_((JobState.REJECTED, JobState.FAILED)),
        ~superseded(),
    ),
)

_AFTER_A_LOSS = (5.0, 3600.0)  # s: a Peer that never finds what it has would be sent it for ever

Taken = tuple[Job, Sequence[Delivery]]


class DeliveryStore:
    """The Deliveries of one data folder."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writing = writing(engine)

    def peers_waited_for(self) -> set[str]:
        """The Peers that some Delivery is still open for."""
        with self._engine.connect() as connection:
            rows = select(delivery.c.peer).join(job, job.c.id == delivery.c.job_id)
            return set(connection.scalars(rows.where(_UNSETTLED, _MAY_GO).distinct()))

    def study_of(self, job_id: JobId) -> str:
        """The Study Instance UID of a Job's Series, in which its results lie."""
        with self._engine.connect() as connection:
            return str(
                connection.scalar(
                    select(series.c.study_instance_uid)
                    .join(
                        job_series,
                        job_series.c.series_instance_uid == series.c.series_instance_uid,
                    )
                    .where(job_series.c.job_id == job_id, job_series.c.channel == 0)
                )
            )

    # -- OPEN → STORED, DONE, FAILED

    def take(self, peer: str, now: float, leave_out: Collection[JobId] = ()) -> Taken | None:
        """All that is due to `peer` of the Job that is due the longest, the attempts counted.

        leave_out: Jobs whose objects are on their way to this Peer.
        """
        with self._writing.begin() as connection:
            due = or_(
                delivery.c.attempts == 0,
                delivery.c.not_before <= now,
                delivery.c.tried_at > now,  # the clock was set back
            )
            found = _longest_due(connection, peer, leave_out, _OPEN, due)
            if found is None:
                return None
            ids = [one.id for one in found[1]]
            connection.execute(
                update(delivery)
                .where(delivery.c.id.in_(ids))
                .values(attempts=delivery.c.attempts + 1, tried_at=now)
            )
            taken = [d for d in select_deliveries(connection, found[0].id) if d.id in ids]
            return found[0], taken

    def give_back(self, taken: Delivery) -> None:
        """The node stops before the Peer answered: the attempt does not count."""
        with self._writing.begin() as connection:
            connection.execute(
                update(delivery)
                .where(_still(taken), _OPEN)
                .values(attempts=delivery.c.attempts - 1)
            )

    def delivered(self, taken: Delivery, answer: str, now: float) -> Job | None:
        """The Peer has it. Returns the Job where that was its last Delivery, else None.

        A Peer that answers is back: what waits for it is due at once.
        """
        finished = self._settle(taken, {"done_at": now, "answer": answer}, now, "SENT")
        self.hurry(now, delivery.c.peer == taken.peer)
        return finished

    def stored(
        self, taken: Delivery, answer: str, transaction_uid: str, ask_at: float, now: float
    ) -> None:
        """The Peer has it, and is asked to confirm that it keeps it; we look again at `ask_at`."""
        values = {
            "stored_at": now,
            "answer": answer,
            "transaction_uid": transaction_uid,
            "not_before": ask_at,
        }
        with self._writing.begin() as connection:
            changed = connection.execute(
                update(delivery).where(_still(taken), _OPEN).values(values)
            )
            if changed.rowcount:
                _log(connection, taken, now, "STORED", answer)
        self.hurry(now, delivery.c.peer == taken.peer)

    def hurry(self, now: float, *which: ColumnElement[bool]) -> None:
        """Open Deliveries are due at once, e.g. after a start.

        Not those that the Peer lost: it was there all the time, and would lose them again.
        """
        with self._writing.begin() as connection:
            connection.execute(
                update(delivery)
                .where(_OPEN, delivery.c.not_before > now, delivery.c.lost_at.is_(None), *which)
                .values(not_before=now)
            )

    def failed(self, taken: Delivery, answer: str, now: float) -> Job | None:
        """The Peer will never take it. Returns the Job where no Delivery is open any more."""
        return self._settle(taken, {"failed_at": now, "answer": answer}, now, "REFUSED")

    def retry(self, taken: Delivery, not_before: float, answer: str, now: float) -> None:
        """The Peer may take it later."""
        with self._writing.begin() as connection:
            connection.execute(
                update(delivery)
                .where(_still(taken), _OPEN)
                .values(not_before=not_before, answer=answer)
            )
            _log(connection, taken, now, "RETRY", answer)

    # -- STORED → DONE, OPEN

    def take_unconfirmed(
        self, peer: str, now: float, leave_out: Collection[JobId] = ()
    ) -> Taken | None:
        """What the Peer stored and has not confirmed in time, of one Job."""
        with self._engine.connect() as connection:
            due = or_(delivery.c.not_before <= now, delivery.c.stored_at > now)
            return _longest_due(connection, peer, leave_out, _STORED, due)

    def unconfirmed(self, transaction_uid: str) -> list[Delivery]:
        """What one request for commitment was made for, and is not settled."""
        which = and_(delivery.c.transaction_uid == transaction_uid, _STORED)
        with self._engine.connect() as connection:
            rows = connection.execute(select(delivery.c.job_id, delivery.c.id).where(which)).all()
            found = select_deliveries(connection, *{row.job_id for row in rows})
        ids = {row.id for row in rows}
        return [one for one in found if one.id in ids]

    def confirmed(self, taken: Delivery, words: str, now: float) -> Job | None:
        """The Peer keeps it. Returns the Job where that was its last Delivery, else None."""
        answer = f"{taken.answer}; {words}"
        return self._settle(taken, {"done_at": now, "answer": answer}, now, "CONFIRMED")

    def unconfirmable(self, taken: Delivery, words: str, now: float) -> Job | None:
        """The Peer answered success, and cannot be asked for more. Returns as `confirmed`."""
        answer = f"{taken.answer}; {words}"
        return self._settle(taken, {"done_at": now, "answer": answer}, now, "SENT")

    def lost(self, taken: Delivery, words: str, now: float) -> None:
        """The Peer does not keep what it had answered success to: it is sent again."""
        values = {
            "stored_at": None,
            "transaction_uid": None,
            "lost_at": now,
            "answer": words,
            "not_before": now + backoff_seconds(taken.attempts, *_AFTER_A_LOSS, jitter=0.0),
        }
        with self._writing.begin() as connection:
            changed = connection.execute(
                update(delivery).where(_still(taken), _STORED).values(values)
            )
            if changed.rowcount:
                _log(connection, taken, now, "LOST", words)

    def ask_later(self, taken: Delivery, ask_at: float, words: str, now: float) -> None:
        """The Peer could not be asked."""
        values = {
            "not_before": ask_at,
            "answer": words,
            "stored_at": func.min(delivery.c.stored_at, now),  # the clock was set back
        }
        with self._writing.begin() as connection:
            connection.execute(update(delivery).where(_still(taken), _STORED).values(values))

    def committed(
        self,
        transaction_uid: str,
        kept: Collection[str],
        failed: Mapping[SOPInstanceUID, str],
        now: float,
        by: Collection[str],
    ) -> list[Job]:
        """A Storage Commitment Result (PS3.4 J.3.3) has come. Returns the Jobs that this ends.

        failed: the reason in words by SOP Instance UID; these are sent again. by: the Peers that
        may have said so. What the report does not mention, and what is of no request of ours to
        them, stays as it is.
        """
        finished = []
        for one in self.unconfirmed(transaction_uid):
            if one.peer not in by:
                continue
            if one.sop_instance_uid in failed:
                reason = failed[one.sop_instance_uid]
                self.lost(one, f"{one.peer} does not keep it: {reason}; it is sent again", now)
            elif one.sop_instance_uid in kept:
                finished.append(self.confirmed(one, "confirmed by Storage Commitment", now))
        return [one for one in finished if one is not None]

    def _settle(
        self, taken: Delivery, values: dict[str, object], now: float, event: str
    ) -> Job | None:
        with self._writing.begin() as connection:
            settled = connection.execute(
                update(delivery).where(_still(taken), _UNSETTLED).values(values)
            )
            if settled.rowcount == 0:  # it was started anew meanwhile: this answer is of before
                return None
            _log(connection, taken, now, event, str(values["answer"]))
            return finish(connection, taken.job_id, now)


def finish(connection: Connection, job_id: JobId, now: float) -> Job | None:
    """DELIVERED once every Peer has all it gets; FAILED once nothing is open and one failed.

    Not while a Peer came to the Job of which is not decided yet what it gets.
    """
    deliveries = select_deliveries(connection, job_id)
    current = select_jobs(connection, job.c.id == job_id)[0]
    if current.state is not JobState.SEGMENTED or not all(d.is_settled for d in deliveries):
        return None
    if connection.scalar(select(recipient.c.peer).where(waits_to_be_given(job_id)).limit(1)):
        return None
    failed = [d for d in deliveries if d.failed_at is not None]
    event = JobEvent.FAIL if failed else JobEvent.DELIVER
    reasons = dict.fromkeys(f"{d.peer}: {d.answer}" for d in failed)
    return transition(connection, job_id, current.state, event, now, "; ".join(reasons) or None)


def _longest_due(
    connection: Connection,
    peer: str,
    leave_out: Collection[JobId],
    *which: ColumnElement[bool],
) -> tuple[Job, list[Delivery]] | None:
    """What is due to a Peer of the one Job of which something is due the longest."""
    due = [delivery.c.peer == peer, *which]
    first = connection.scalar(
        select(delivery.c.job_id)
        .join(job, job.c.id == delivery.c.job_id)
        .where(*due, _MAY_GO, delivery.c.job_id.not_in(leave_out))
        .order_by(delivery.c.not_before, delivery.c.id)
        .limit(1)
    )
    if first is None:
        return None
    ids = set(connection.scalars(select(delivery.c.id).where(*due, delivery.c.job_id == first)))
    (found,) = select_jobs(connection, job.c.id == first)
    kind = ResultKind.REFUSAL
    is_refusal = found.state is not JobState.SEGMENTED
    deliveries = [
        d
        for d in select_deliveries(connection, JobId(first))
        if d.id in ids and (d.kind is kind) == is_refusal
    ]
    return found, deliveries


def _log(connection: Connection, taken: Delivery, now: float, event: str, answer: str) -> None:
    detail = f"{taken.kind} to {taken.peer}: {answer}"
    log_event(connection, taken.job_id, now, event, None, None, detail)


def _still(taken: Delivery) -> ColumnElement[bool]:
    """The attempt that was taken is the Delivery's present one.

    Running or sending a Job again sets the attempts back to 0 (see JobStore), and no two lanes
    take the objects of one Job to one Peer: an attempt of before never has the number of one after.
    """
    return and_(delivery.c.id == taken.id, delivery.c.attempts == taken.attempts)
