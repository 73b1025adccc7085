"""How a closed Series becomes a Job."""

from dataclasses import dataclass

from sqlalchemy import Connection, insert, or_, select, update

from node.core.job import Job, JobEvent, JobState
from node.core.names import JobId, SeriesInstanceUID
from node.core.result import ResultKind
from node.core.uids import ResultUIDs
from node.core.verdict import Verdict
from node.store.results import given_of, objects_of
from node.store.rows import jobs_of_series, log_event, select_jobs, transition
from node.store.tables import job, job_series, recipient

REFUSED = "REFUSE"  # the first event of a Job that never had all its Series


@dataclass(frozen=True)
class JobOrder:
    """A Job to be: everything that is decided when its Series closes."""

    series_instance_uids: tuple[SeriesInstanceUID, ...]
    route: str
    model: str
    model_fingerprint: str
    input_fingerprint: str
    result_uids: ResultUIDs
    peers: tuple[str, ...]
    priority: int = 0
    verdict: Verdict | None = None


def insert_job(
    connection: Connection, order: JobOrder, now: float, refusal: str | None = None
) -> Job | None:
    """A new QUEUED Job with its recipients; None where this very input has its Job already.

    So it has, too, where the Model has another name by now: its results would have the same UIDs.

    With `refusal` it is REJECTED from the first, for that reason: it never had all its Series.
    """
    known = select(job.c.id).where(
        or_(job.c.model == order.model, job.c.model_fingerprint == order.model_fingerprint),
        job.c.input_fingerprint == order.input_fingerprint,
    )
    if (same := connection.scalar(known)) is not None:
        _judged_anew(connection, same, order)
        add_recipients(connection, JobId(same), order, now)
        return None
    state = JobState.QUEUED if refusal is None else JobState.REJECTED
    job_id = connection.execute(
        insert(job)
        .returning(job.c.id)
        .values(
            route=order.route,
            model=order.model,
            model_fingerprint=order.model_fingerprint,
            input_fingerprint=order.input_fingerprint,
            result_series_uid=order.result_uids.series_instance_uid,
            result_sop_uid=order.result_uids.sop_instance_uid,
            state=state,
            reason=refusal,
            not_before=now,
            created_at=now,
            updated_at=now,
            priority=order.priority,
            verdict=order.verdict,
            supersedes=_predecessor(connection, order),
        )
    ).scalar_one()
    connection.execute(
        insert(job_series),
        [
            {"job_id": job_id, "channel": channel, "series_instance_uid": uid}
            for channel, uid in enumerate(order.series_instance_uids)
        ],
    )
    if order.peers:
        connection.execute(
            insert(recipient), [{"job_id": job_id, "peer": peer} for peer in order.peers]
        )
    event, detail = ("QUEUE", f'route "{order.route}"') if refusal is None else (REFUSED, refusal)
    log_event(connection, job_id, now, event, None, state, detail)
    return select_jobs(connection, job.c.id == job_id)[0]


def _predecessor(connection: Connection, order: JobOrder) -> JobId | None:
    """The latest Job of the Model that read these Series, or some of them and no others.

    The latter was refused for want of a channel.
    """
    wanted = set(order.series_instance_uids)
    earlier = [
        one.id
        for uid in wanted
        for one in jobs_of_series(connection, uid)
        if one.model == order.model and wanted.issuperset(one.series_instance_uids)
    ]
    return max(earlier, default=None)


def _judged_anew(connection: Connection, job_id: int, order: JobOrder) -> None:
    """Its Series was opened and judged again: what the Job makes from now on says how it is now.

    Not where a Peer may have a result of it, which says how it was. Its Model's name is today's.
    """
    has_result = (JobState.SEGMENTED, JobState.DELIVERED, JobState.FAILED)
    connection.execute(
        update(job)
        .where(job.c.id == job_id, job.c.model_fingerprint == order.model_fingerprint)
        .values(model=order.model)
    )
    if not given_of(connection, JobId(job_id)):
        connection.execute(
            update(job)
            .where(job.c.id == job_id, job.c.state.not_in(has_result))
            .values(verdict=order.verdict)
        )


def add_recipients(connection: Connection, job_id: JobId, order: JobOrder, now: float) -> None:
    """The Job of this very input gets the Peers of a Route that came to it later.

    A result that all its Peers have, or that one of them refused, is on its way again, to the new
    ones alone. Of a Job without a result they are noted for the time when it has one.
    """
    (held,) = select_jobs(connection, job.c.id == job_id)
    new = [peer for peer in order.peers if peer not in held.recipients]
    if not new:
        return
    detail = f'route "{order.route}" wants the result too, for {", ".join(new)}'
    if held.state is JobState.DELIVERED and held.purged_at is not None:
        gone = f"{detail}; its files are deleted: take it from a Peer that has it"
        log_event(connection, job_id, now, "NOTE", None, None, gone)
        return
    connection.execute(insert(recipient), [{"job_id": job_id, "peer": peer} for peer in new])
    has_result = any(one.kind is not ResultKind.REFUSAL for one in objects_of(connection, job_id))
    if held.state in (JobState.DELIVERED, JobState.FAILED) and has_result:
        transition(connection, job_id, held.state, JobEvent.RESEND, now, detail)
    else:
        log_event(connection, job_id, now, "NOTE", None, None, detail)
