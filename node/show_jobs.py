"""How Jobs look to the eye: a line each for `jobs list`, all of one for `jobs show`."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from node.core.delivery import Delivery, DeliveryState
from node.core.job import Job, JobState, LoggedEvent
from node.core.names import JobId
from node.core.text import counted


def moment(seconds: float | None) -> str | None:
    """ISO 8601, UTC, to the second."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class JobStory:
    """A Job with all that is told of it.

    forms: how a Segmentation holds its Segments, by SOP Instance UID ("" for the usual way).
    superseded_by: the Jobs that took its place.
    """

    job: Job
    deliveries: Sequence[Delivery]
    events: Sequence[LoggedEvent]
    forms: Mapping[str, str] = field(default_factory=dict)
    superseded_by: Sequence[JobId] = ()


def list_lines(jobs: Sequence[Job], deliveries: Mapping[JobId, Sequence[Delivery]]) -> list[str]:
    """One line each below a head, nothing cut off: UIDs are there to be copied."""
    if not jobs:
        return []
    where = [f"{job.model} → {', '.join(job.recipients) or 'nobody'}" for job in jobs]
    width = max(map(len, ("MODEL → PEERS", *where)))
    head = f"{'JOB':>5}  {'STATE':<9}  {'MODEL → PEERS':<{width}}  {'CHANGED':<20}  "
    lines = [f"{head}TRIED  SERIES  NOTE"]
    for job, its in zip(jobs, where, strict=True):
        line = (
            f"{job.id:>5}  {job.state:<9}  {its:<{width}}  {moment(job.updated_at)}  "
            f"{counted(job.attempts, 'attempt')}  {job.series_instance_uids[0]}  "
            f"{_note(job, deliveries[job.id])}"
        )
        lines.append(line.rstrip())
    return lines


def _note(job: Job, deliveries: Sequence[Delivery]) -> str:
    """Why it is where it is; of one that is being delivered, what does not go well."""
    why = (job.reason or job.stage or "").strip().splitlines()[-1:]
    troubles = _troubles(deliveries) if job.state is JobState.SEGMENTED else []
    return "; ".join([*why, *troubles])


def _troubles(deliveries: Sequence[Delivery]) -> list[str]:
    failed = [one for one in deliveries if one.state is DeliveryState.FAILED]
    waiting = [one for one in deliveries if one.answer and one.state is DeliveryState.OPEN]
    told = ((failed, "failed"), (waiting, "tried again"))
    return [_together(some, len(deliveries), word) for some, word in told if some]


def _together(some: Sequence[Delivery], of_all: int, word: str) -> str:
    if len(some) == 1:
        return f"{some[0].kind} to {some[0].peer} {word}"
    return f"{len(some)} of {of_all} deliveries {word}"


def job_lines(story: JobStory) -> list[str]:
    """One Job with its history, for `jobs show`."""
    job = story.job
    lines = [
        f"Job {job.id}: {job.state}" + (f", {job.stage} now" if job.stage else ""),
        f"  model     {job.model} ({job.model_fingerprint[:12]})",
        f"  route     {job.route}",
        *(f"  series    {uid}" for uid in job.series_instance_uids),
        *_result_lines(story),
        *([f"  priority  {job.priority}"] if job.priority else []),
        f"  attempts  {job.attempts}",
    ]
    if job.reason:
        lines.append(f"  reason    {job.reason}")
    lines += deleted_lines("result", job.purged_at)
    if job.supersedes:
        lines.append(f"  supersedes Job {job.supersedes}")
    lines += [f"  superseded by Job {later}" for later in story.superseded_by]
    if job.state is JobState.QUEUED and job.attempts:
        lines.append(f"  next try  {moment(job.not_before)}")
    if job.timings:
        parts = ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in job.timings.items())
        lines.append(f"  took      {parts}")
    lines += _delivery_lines(story)
    lines += ["  history", *(event_line(event) for event in story.events)]
    return lines


def _result_lines(story: JobStory) -> list[str]:
    """UIDs are chosen before the work; they are shown once they name something.

    Objects of one kind and form (pictures, parts) share a line with the UID of the first.
    """
    if story.job.state not in (JobState.SEGMENTED, JobState.DELIVERED):
        return []
    uids: dict[str, list[str]] = {}
    for one in story.deliveries:
        same = uids.setdefault(_kind(story, one), [])
        if one.sop_instance_uid not in same:
            same.append(one.sop_instance_uid)
    return [f"  result    {kind} {_first(some)}" for kind, some in uids.items()]


def _first(uids: Sequence[str]) -> str:
    return uids[0] if len(uids) == 1 else f"{uids[0]} and {len(uids) - 1} more"


def _kind(story: JobStory, delivery: Delivery) -> str:
    form = story.forms.get(delivery.sop_instance_uid)
    return f"{delivery.kind} ({form})" if form else str(delivery.kind)


def _delivery_lines(story: JobStory) -> list[str]:
    """What would be said twice is said once, with how many it is said of."""
    said = Counter((_kind(story, one), _said(one)) for one in story.deliveries)
    return [
        f"  delivery  {f'{count} {kind}' if count > 1 else kind} {words}"
        for (kind, words), count in said.items()
    ]


def _said(delivery: Delivery) -> str:
    words = f"to {delivery.peer}: {delivery.state}, {counted(delivery.attempts, 'attempt')}"
    if delivery.answer:
        words += f"; {delivery.answer}"
    if delivery.attempts and not delivery.is_settled:
        again = "asked again" if delivery.state is DeliveryState.STORED else "next try"
        words += f"; {again} {moment(delivery.not_before)}"
    return words


def event_line(event: LoggedEvent) -> str:
    states = f" {event.from_state or ''} → {event.to_state}" if event.to_state else ""
    detail = f"  {event.detail}" if event.detail else ""
    return f"    {moment(event.at)}  {event.event}{states}{detail}"


def deleted_lines(what: str, purged_at: float | None) -> list[str]:
    """That files are gone, where they are."""
    return [f"  deleted   its {what} files, {moment(purged_at)} (retention)"] if purged_at else []
