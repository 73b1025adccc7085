"""The log line of a Job's change of state: Job, Series, and why. Never a patient's name."""

import structlog

from node.core.job import Job, JobState

log = structlog.get_logger()

_FOR_A_PERSON = (JobState.FAILED, JobState.REJECTED)


def tell_state(job: Job) -> None:
    """One line; a warning where a person should look."""
    tell = log.warning if job.state in _FOR_A_PERSON else log.info
    tell(
        f"job {job.state}",
        job=job.id,
        series_instance_uid=job.series_instance_uids[0],
        model=job.model,
        reason=job.reason,
    )
