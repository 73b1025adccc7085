"""Jobs. Each change is a guarded UPDATE and a row in job_event."""

from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import Connection, Engine, and_, or_, select, update

from node.core.delivery import Delivery
from node.core.errors import Fatal, StaleState
from node.core.job import Job, JobEvent, JobState, LoggedEvent
from node.core.names import JobId, SeriesInstanceUID
from node.core.result import ObjectRef, ResultKind
from node.core.uids import ResultUIDs
from node.store.database import writing
from node.store.deliveries import finish
from node.store.orders import REFUSED
from node.store.results import (
    ANEW,
    Gets,
    given_of,
    objects_of,
    of_current,
    record_results,
    replace_results,
)
from node.store.rows import jobs_of_series, log_event, select_deliveries, select_jobs, transition
from node.store.tables import delivery, job, job_event, job_series, result, series

SEND_ANEW = "take it from a Peer that has it; a Job that is not DELIVERED can be run again"


class JobStore:
    """The Jobs of one data folder."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writing = writing(engine)

    # -- reading

    def get(self, job_id: JobId) -> Job | None:
        with self._engine.connect() as connection:
            jobs = select_jobs(connection, job.c.id == job_id)
        return jobs[0] if jobs else None

    def list(self, state: JobState | None = None, limit: int = 100) -> list[Job]:
        """The latest Jobs first."""
        condition = job.c.state == state if state else job.c.id.is_not(None)
        with self._engine.connect() as connection:
            return select_jobs(connection, condition, limit=limit)

    def of_series(self, uid: SeriesInstanceUID) -> Sequence[Job]:
        """The Jobs that read this Series, the latest first."""
        with self._engine.connect() as connection:
            return jobs_of_series(connection, uid)

    def of_result(self, uid: str) -> Sequence[Job]:
        """The Jobs that made the object, or the Series of objects, of this UID."""
        made = or_(result.c.sop_instance_uid == uid, result.c.series_instance_uid == uid)
        with self._engine.connect() as connection:
            return select_jobs(connection, job.c.id.in_(select(result.c.job_id).where(made)))

    def superseding(self, job_id: JobId) -> Sequence[JobId]:
        """The Jobs that took the place of this one, the first first."""
        later = select(job.c.id).where(job.c.supersedes == job_id).order_by(job.c.id)
        with self._engine.connect() as connection:
            return [JobId(one) for one in connection.scalars(later)]

    def events(self, job_id: JobId) -> Sequence[LoggedEvent]:
        with self._engine.connect() as connection:
            rows = connection.execute(
                select(
                    job_event.c.at,
                    job_event.c.event,
                    job_event.c.from_state,
                    job_event.c.to_state,
                    job_event.c.detail,
                )
                .where(job_event.c.job_id == job_id)
                .order_by(job_event.c.id)
            ).mappings()
            return [LoggedEvent(**row) for row in rows]

    def deliveries(self, job_id: JobId) -> Sequence[Delivery]:
        with self._engine.connect() as connection:
            return select_deliveries(connection, job_id)

    def deliveries_of(self, ids: Sequence[JobId]) -> Mapping[JobId, Sequence[Delivery]]:
        """The Deliveries of several Jobs by Job."""
        with self._engine.connect() as connection:
            found = select_deliveries(connection, *ids)
        return {job_id: [one for one in found if one.job_id == job_id] for job_id in ids}

    def given_before(self, superseding: Job, peer: str | None = None) -> Sequence[ObjectRef]:
        """What some Peer, or this one, may have of the latest Job before this one that gave any."""
        seen = {superseding.id}
        with self._engine.connect() as connection:
            earlier = superseding.supersedes
            while earlier is not None and earlier not in seen:
                seen.add(earlier)
                if found := given_of(connection, earlier, peer):
                    return found
                (one,) = select_jobs(connection, job.c.id == earlier)
                earlier = one.supersedes
        return []

    def objects(self, job_id: JobId) -> Sequence[ObjectRef]:
        """The result objects of a Job's last attempt."""
        with self._engine.connect() as connection:
            return objects_of(connection, job_id)

    def given(self, job_id: JobId, peer: str | None = None) -> Sequence[ObjectRef]:
        """The objects of a Job, of earlier attempts too, that some Peer may have, or this one."""
        with self._engine.connect() as connection:
            return given_of(connection, job_id, peer)

    # -- lane 1: QUEUED → SEGMENTED

    def segmented(self, job_id: JobId, objects: Sequence[ObjectRef], gets: Gets, now: float) -> Job:
        """The result files exist: each object is due to the Peers that get it.

        A Job that nobody gets anything of is DELIVERED. Raises StaleState.
        """
        with self._writing.begin() as connection:
            moved = transition(connection, job_id, JobState.QUEUED, JobEvent.SEGMENT, now)
            record_results(connection, job_id, objects, gets, now)
            return finish(connection, job_id, now) or moved

    def take_queued(self, now: float, leave_out: Collection[JobId] = ()) -> Job | None:
        """The due Job of the highest priority; of several the one that is due the longest.

        Its attempt is counted before the work begins. A Job that pauses before its next attempt
        is not due and lets those of lower priority go first.
        leave_out: those that this process works on. They stay QUEUED, so a crash loses none.
        """
        with self._writing.begin() as connection:
            due = select_jobs(
                connection,
                job.c.state == JobState.QUEUED,
                # Changed in the future: the clock was set back, and no pause is to be that long.
                or_(job.c.attempts == 0, job.c.not_before <= now, job.c.updated_at > now),
                job.c.id.not_in(leave_out),
                oldest=True,
            )
            if not due:
                return None
            connection.execute(
                update(job).where(job.c.id == due[0].id).values(attempts=job.c.attempts + 1)
            )
            return select_jobs(connection, job.c.id == due[0].id)[0]

    def stamp(self, taken: Job, model_fingerprint: str, uids: ResultUIDs, now: float) -> Job:
        """Gives a queued Job the identity of the Model as it is now, after it was replaced."""
        with self._writing.begin() as connection:
            changed = connection.execute(
                update(job)
                .where(job.c.id == taken.id, job.c.state == JobState.QUEUED)
                .values(
                    model_fingerprint=model_fingerprint,
                    result_series_uid=uids.series_instance_uid,
                    result_sop_uid=uids.sop_instance_uid,
                    updated_at=now,
                )
            )
            if changed.rowcount == 0:
                raise StaleState(f"Job {taken.id} is no longer QUEUED")
            log_event(connection, taken.id, now, "NOTE", None, None, "the Model was replaced")
            return select_jobs(connection, job.c.id == taken.id)[0]

    def give_back(self, taken: Job, now: float) -> None:
        """The node stops in the middle of an attempt: it does not count."""
        with self._writing.begin() as connection:
            connection.execute(
                update(job)
                .where(job.c.id == taken.id, job.c.state == JobState.QUEUED)
                .values(attempts=job.c.attempts - 1, stage=None, timings={}, updated_at=now)
            )
            detail = "the node stopped during this attempt, which does not count"
            log_event(connection, taken.id, now, "NOTE", None, None, detail)

    def set_stage(self, job_id: JobId, stage: str | None, timings: dict[str, float]) -> None:
        """Progress for the eye, and what each stage took, s."""
        with self._writing.begin() as connection:
            connection.execute(
                update(job).where(job.c.id == job_id).values(stage=stage, timings=timings)
            )

    def set_progress(self, job_id: JobId, stage: str) -> None:
        """As set_stage, while the Job is QUEUED. Raises StaleState once it is not."""
        with self._writing.begin() as connection:
            changed = connection.execute(
                update(job)
                .where(job.c.id == job_id, job.c.state == JobState.QUEUED)
                .values(stage=stage)
            )
        if changed.rowcount == 0:
            raise StaleState(f"Job {job_id} is no longer QUEUED")

    def note(self, job_id: JobId, detail: str, now: float) -> None:
        """A line of the Job's history that changes nothing."""
        with self._writing.begin() as connection:
            log_event(connection, job_id, now, "NOTE", None, None, detail)

    def retry(self, taken: Job, not_before: float, reason: str, now: float) -> None:
        """The attempt failed, a later one may not: the state stays, the time moves."""
        with self._writing.begin() as connection:
            connection.execute(
                update(job)
                .where(job.c.id == taken.id, job.c.state == taken.state)
                .values(not_before=not_before, reason=reason, stage=None, updated_at=now)
            )
            log_event(connection, taken.id, now, "RETRY", None, None, reason)

    # -- every transition

    def transition(
        self, job_id: JobId, state: JobState, event: JobEvent, now: float, reason: str | None = None
    ) -> Job:
        """Moves a Job along TRANSITIONS, if it still is in `state`. Raises StaleState."""
        with self._writing.begin() as connection:
            return transition(connection, job_id, state, event, now, reason)

    # -- on request

    def rerun(self, job_id: JobId, state: JobState, now: float) -> Job:
        """FAILED, REJECTED or CANCELLED back to QUEUED, with attempts anew.

        Raises Fatal for a Job that cannot run: it was refused for want of a Series, or the files
        of one are deleted.
        """
        with self._writing.begin() as connection:
            _require_all_series(connection, job_id)
            _require_files(connection, job_id)
            replace_results(connection, job_id, now)
            return transition(connection, job_id, state, JobEvent.RERUN, now)

    def resend(self, job_id: JobId, state: JobState, now: float) -> Job:
        """The same result again: FAILED or DELIVERED back to SEGMENTED.

        Of a DELIVERED Job all of it; of a FAILED or SEGMENTED one what a Peer refused, and what
        waits, at once. Raises Fatal where there is nothing to send.
        """
        with self._writing.begin() as connection:
            (current,) = select_jobs(connection, job.c.id == job_id)
            if current.purged_at is not None:
                raise Fatal(f"the result files of Job {job_id} are deleted; {SEND_ANEW}")
            made = [one.kind for one in objects_of(connection, job_id)]
            if state is not JobState.SEGMENTED and set(made) <= {ResultKind.REFUSAL}:
                raise Fatal(f"Job {job_id} has no result yet: segnode jobs rerun {job_id}")
            if state is JobState.SEGMENTED:
                log_event(connection, job_id, now, "NOTE", None, None, "sent again by hand")
            else:
                current = transition(connection, job_id, state, JobEvent.RESEND, now)
            _send_again(connection, job_id, now, with_done=state is JobState.DELIVERED)
            return current


def _require_all_series(connection: Connection, job_id: JobId) -> None:
    first = select(job_event.c.event).where(job_event.c.job_id == job_id).order_by(job_event.c.id)
    if connection.scalar(first.limit(1)) == REFUSED:
        raise Fatal(
            f"Job {job_id} never had a Series for each channel; segnode jobs rerun SERIES_UID "
            "lets one of its Series be routed again and wait anew"
        )


def _require_files(connection: Connection, job_id: JobId) -> None:
    gone = connection.scalar(
        select(series.c.series_instance_uid)
        .join(job_series, job_series.c.series_instance_uid == series.c.series_instance_uid)
        .where(job_series.c.job_id == job_id, series.c.purged_at.is_not(None))
        .limit(1)
    )
    if gone is not None:
        raise Fatal(
            f"the instance files of Series {gone} are deleted (see segnode jobs explain {gone}); "
            f"send it again, then segnode jobs rerun {job_id}"
        )


def _send_again(connection: Connection, job_id: JobId, now: float, *, with_done: bool) -> None:
    """Refused Deliveries, and done ones, begin anew; those that wait are due now."""
    mine = and_(delivery.c.job_id == job_id, of_current())
    columns = (delivery.c.failed_at, delivery.c.done_at) if with_done else (delivery.c.failed_at,)
    ended = or_(*(column.is_not(None) for column in columns))
    connection.execute(update(delivery).where(mine, ended).values(**ANEW, not_before=now))
    waits = and_(delivery.c.done_at.is_(None), delivery.c.failed_at.is_(None))
    connection.execute(update(delivery).where(mine, waits).values(not_before=now))
