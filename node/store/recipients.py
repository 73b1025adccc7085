"""Peers that get something beside the ordinary way.

A result that was made before they came to its Job, or the word that there is none.
"""

from collections.abc import Sequence

from sqlalchemy import Engine, exists, select, update

from node.core.errors import StaleState
from node.core.job import Job, JobState
from node.core.names import JobId
from node.core.result import ObjectRef
from node.store.database import writing
from node.store.deliveries import finish
from node.store.results import Gets, give, record_results
from node.store.rows import log_event, select_jobs, superseded
from node.store.tables import job, job_series, recipient, series


class RecipientStore:
    """The recipients of one data folder's Jobs."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writing = writing(engine)

    def waiting(self) -> tuple[Job, Sequence[str]] | None:
        """A Job that has a result, and the Peers that came to it later and have nothing yet."""
        with self._engine.connect() as connection:
            rows = connection.execute(
                select(recipient.c.job_id, recipient.c.peer)
                .join(job, job.c.id == recipient.c.job_id)
                .where(recipient.c.given_at.is_(None), job.c.state == JobState.SEGMENTED)
                .order_by(recipient.c.job_id)
            ).all()
            if not rows:
                return None
            first = rows[0].job_id
            (found,) = select_jobs(connection, job.c.id == first)
            return found, [row.peer for row in rows if row.job_id == first]

    def give(self, job_id: JobId, gets: Gets, now: float) -> Job | None:
        """Objects that were made are due to more Peers. Returns the Job where that ends it."""
        with self._writing.begin() as connection:
            (current,) = select_jobs(connection, job.c.id == job_id)
            if current.state is not JobState.SEGMENTED:
                return None
            give(connection, job_id, gets, now)
            return finish(connection, job_id, now)

    def refused(self) -> Job | None:
        """The earliest refused Job of which is not settled whether Peers are told.

        Not one that a later Job takes the place of, or will: its Series is open again.
        """
        open_again = exists().where(
            job_series.c.job_id == job.c.id,
            series.c.series_instance_uid == job_series.c.series_instance_uid,
            series.c.closed_at.is_(None),
        )
        with self._engine.connect() as connection:
            found = connection.scalar(
                select(job.c.id)
                .where(
                    job.c.state.in_((JobState.REJECTED, JobState.FAILED)),
                    job.c.refusal_at.is_(None),
                    ~superseded(),
                    ~open_again,
                )
                .order_by(job.c.id)
                .limit(1)
            )
            return select_jobs(connection, job.c.id == found)[0] if found is not None else None

    def tell(
        self,
        refused: Job,
        objects: Sequence[ObjectRef],
        gets: Gets,
        now: float,
        note: str | None = None,
    ) -> None:
        """The report's file exists; or there is none, and perhaps why. Raises StaleState."""
        with self._writing.begin() as connection:
            settled = connection.execute(
                update(job)
                .where(job.c.id == refused.id, job.c.state == refused.state)
                .values(refusal_at=now)
            )
            if settled.rowcount == 0:
                raise StaleState(f"Job {refused.id} is no longer {refused.state}")
            if objects:
                record_results(connection, refused.id, objects, gets, now)
                note = f"there is no result: {', '.join(gets)} will be told"
            if note is not None:
                log_event(connection, refused.id, now, "NOTE", None, None, note)
