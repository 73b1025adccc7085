"""Deliveries: what is due to which Peer, and what the Peer answered."""

from sqlalchemy import ColumnElement, Connection, Engine, and_, or_, select, update

from node.core.job import Delivery, Job, JobEvent, JobState
from node.core.names import JobId
from node.store.database import writing
from node.store.rows import log_event, select_deliveries, select_jobs, transition
from node.store.tables import delivery, job

_OPEN = and_(delivery.c.done_at.is_(None), delivery.c.failed_at.is_(None))


class DeliveryStore:
    """The Deliveries of one data folder."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writing = writing(engine)

    def peers_waited_for(self) -> set[str]:
        """The Peers that some Delivery is still open for."""
        with self._engine.connect() as connection:
            return set(connection.scalars(select(delivery.c.peer).where(_OPEN).distinct()))

    def take(self, peer: str, now: float) -> tuple[Job, Delivery] | None:
        """The Delivery to `peer` that is due the longest, its attempt counted."""
        with self._writing.begin() as connection:
            row = connection.execute(
                select(delivery.c.id, delivery.c.job_id)
                .join(job, job.c.id == delivery.c.job_id)
                .where(
                    delivery.c.peer == peer,
                    _OPEN,
                    or_(
                        delivery.c.attempts == 0,
                        delivery.c.not_before <= now,
                        delivery.c.tried_at > now,  # the clock was set back
                    ),
                    job.c.state == JobState.SEGMENTED,
                )
                .order_by(delivery.c.not_before, delivery.c.id)
                .limit(1)
            ).one_or_none()
            if row is None:
                return None
            connection.execute(
                update(delivery)
                .where(delivery.c.id == row.id)
                .values(attempts=delivery.c.attempts + 1, tried_at=now)
            )
            taken = next(d for d in select_deliveries(connection, row.job_id) if d.id == row.id)
            return select_jobs(connection, job.c.id == row.job_id)[0], taken

    def give_back(self, taken: Delivery) -> None:
        """The node stops before the Peer answered: the attempt does not count."""
        with self._writing.begin() as connection:
            connection.execute(
                update(delivery).where(_still(taken)).values(attempts=delivery.c.attempts - 1)
            )

    def delivered(self, taken: Delivery, answer: str, now: float) -> Job | None:
        """The Peer has it. Returns the Job where that was its last Delivery, else None.

        A Peer that answers is back: what waits for it is due at once.
        """
        finished = self._settle(taken, {"done_at": now, "answer": answer}, now, "SENT")
        self.hurry(now, delivery.c.peer == taken.peer)
        return finished

    def hurry(self, now: float, *which: ColumnElement[bool]) -> None:
        """Open Deliveries are due at once, e.g. after a start."""
        with self._writing.begin() as connection:
            connection.execute(
                update(delivery)
                .where(_OPEN, delivery.c.not_before > now, *which)
                .values(not_before=now)
            )

    def failed(self, taken: Delivery, answer: str, now: float) -> Job | None:
        """The Peer will never take it. Returns the Job where no Delivery is open any more."""
        return self._settle(taken, {"failed_at": now, "answer": answer}, now, "REFUSED")

    def retry(self, taken: Delivery, not_before: float, answer: str, now: float) -> None:
        """The Peer may take it later."""
        with self._writing.begin() as connection:
            connection.execute(
                update(delivery).where(_still(taken)).values(not_before=not_before, answer=answer)
            )
            log_event(connection, taken.job_id, now, "RETRY", None, None, f"{taken.peer}: {answer}")

    def _settle(
        self, taken: Delivery, values: dict[str, object], now: float, event: str
    ) -> Job | None:
        with self._writing.begin() as connection:
            settled = connection.execute(update(delivery).where(_still(taken)).values(values))
            if settled.rowcount == 0:  # it was started anew meanwhile: this answer is of before
                return None
            detail = f"{taken.peer}: {values['answer']}"
            log_event(connection, taken.job_id, now, event, None, None, detail)
            return self._finish(connection, taken.job_id, now)

    def _finish(self, connection: Connection, job_id: JobId, now: float) -> Job | None:
        """DELIVERED once every Peer has it; FAILED once no Delivery is open and one failed."""
        deliveries = select_deliveries(connection, job_id)
        current = select_jobs(connection, job.c.id == job_id)[0]
        if current.state is not JobState.SEGMENTED or any(d.is_open for d in deliveries):
            return None
        failed = [d for d in deliveries if d.failed_at is not None]
        event = JobEvent.FAIL if failed else JobEvent.DELIVER
        reason = "; ".join(f"{d.peer}: {d.answer}" for d in failed) or None
        return transition(connection, job_id, current.state, event, now, reason)


def _still(taken: Delivery) -> ColumnElement[bool]:
    """The attempt that was taken is the Delivery's present one.

    Running or sending a Job again sets the attempts back to 0 (see JobStore), and one lane alone
    takes the Deliveries of a Peer: an attempt of before never has the number of one after.
    """
    return and_(delivery.c.id == taken.id, delivery.c.attempts == taken.attempts, _OPEN)
