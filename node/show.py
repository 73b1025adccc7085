"""How Jobs and Series look: as plain values for --json, and as lines for the eye."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from node.core.delivery import Delivery
from node.core.job import Job, LoggedEvent
from node.core.model import Model
from node.core.text import counted
from node.show_jobs import JobStory, deleted_lines, job_lines, moment

if TYPE_CHECKING:  # the worker process imports the command, and should not import the database
    from node.dicom.aside import SetAside
    from node.store.series import StoredAssociation, StoredSeries
    from node.store.waiting import Waiting


def job_values(job: Job, deliveries: Sequence[Delivery]) -> dict[str, Any]:
    """One Job as it appears in `jobs list --json`."""
    return {
        "id": job.id,
        "state": job.state.value,
        "route": job.route,
        "model": job.model,
        "series_instance_uids": list(job.series_instance_uids),
        "priority": job.priority,
        "attempts": job.attempts,
        "stage": job.stage,
        "reason": job.reason,
        "not_before": moment(job.not_before),
        "created_at": moment(job.created_at),
        "updated_at": moment(job.updated_at),
        "timings_seconds": dict(job.timings),
        "supersedes": job.supersedes,
        "result": {  # of the default Segmentation; each object stands in deliveries
            "series_instance_uid": job.result_uids.series_instance_uid,
            "sop_instance_uid": job.result_uids.sop_instance_uid,
        },
        "model_fingerprint": job.model_fingerprint,
        "input_fingerprint": job.input_fingerprint,
        "deliveries": [delivery_values(delivery) for delivery in deliveries],
        "purged_at": moment(job.purged_at),
    }


def delivery_values(delivery: Delivery) -> dict[str, Any]:
    """One Delivery with its state in a word."""
    return {
        "peer": delivery.peer,
        "object": delivery.kind.value,
        "sop_instance_uid": delivery.sop_instance_uid,
        "state": delivery.state.value,
        "attempts": delivery.attempts,
        "answer": delivery.answer,
        "next_try_at": None if delivery.is_settled else moment(delivery.not_before),
        "stored_at": moment(delivery.stored_at),
        "done_at": moment(delivery.done_at),
        "failed_at": moment(delivery.failed_at),
    }


def event_values(event: LoggedEvent) -> dict[str, Any]:
    """One row of a Job's history."""
    return {
        "at": moment(event.at),
        "event": event.event,
        "from_state": event.from_state,
        "to_state": event.to_state,
        "detail": event.detail,
    }


def series_values(series: "StoredSeries") -> dict[str, Any]:
    """One Series as it appears in `jobs list --unrouted --json` and in `jobs explain --json`."""
    return {
        "series_instance_uid": series.series_instance_uid,
        "study_instance_uid": series.study_instance_uid,
        "modality": series.modality,
        "calling_ae_title": series.calling_ae_title,
        "instances": series.instances,
        "first_received_at": moment(series.first_received_at),
        "last_received_at": moment(series.last_received_at),
        "closed_at": moment(series.closed_at),
        "verdict": series.verdict.value if series.verdict else None,
        "closed_on": series.evidence,
        "routing": series.routing,
        "purged_at": moment(series.purged_at),
    }


def series_lines(series: "StoredSeries") -> list[str]:
    """One closed Series, for `jobs list` and `jobs explain`; what lacks stands in its routing."""
    return [
        *_received_lines(series),
        f"  closed    {moment(series.closed_at)}: {_verdict(series)}",
        f"  routing   {series.routing or 'not yet'}",
        *deleted_lines("instance", series.purged_at),
    ]


def open_lines(series: "StoredSeries", waits_for: str) -> list[str]:
    """One open Series, for the same."""
    last = moment(series.last_received_at)
    return [*_received_lines(series), f"  open      last instance {last}; {waits_for}"]


def _received_lines(series: "StoredSeries") -> list[str]:
    return [
        f"Series {series.series_instance_uid} ({series.modality or 'no modality'})",
        f"  received  {counted(series.instances, 'instance')} from {series.calling_ae_title}, "
        f"{moment(series.first_received_at)} to {moment(series.last_received_at)}",
    ]


def _verdict(series: "StoredSeries") -> str:
    """All of the evidence where an earlier version noted it in one piece."""
    has_findings = series.findings and series.verdict is not None
    return str(series.verdict) if has_findings else str(series.evidence)


def waiting_values(waiting: "Waiting") -> dict[str, Any]:
    """One channel that a Series fits, of a Route whose Model reads several."""
    return {
        "route": waiting.route,
        "channel": waiting.channel,
        "since": moment(waiting.since),
        "until": moment(waiting.until),
        "done_at": moment(waiting.done_at),
    }


def waiting_line(waiting: "Waiting") -> str:
    what = f'  channel   {waiting.channel} of route "{waiting.route}": '
    if waiting.done_at is not None:
        return f"{what}done {moment(waiting.done_at)}"
    return f"{what}waits for the other channels until {moment(waiting.until)}"


@dataclass(frozen=True)
class Evidence:
    """What a Series was judged by, beyond its own row. conflicts: came again with other bytes.

    aside: what is missing because we refused it, by SOP Instance UID.
    """

    associations: Sequence["StoredAssociation"]
    conflicts: Sequence[Mapping[str, Any]]
    aside: Mapping[str, "SetAside"] = field(default_factory=dict)


def evidence_values(series: "StoredSeries", evidence: Evidence) -> dict[str, Any]:
    """On what a Series was closed, or is kept open, for `jobs explain --json`."""
    return {
        "findings": list(series.findings),
        "counts": [dict(told) | {"at": moment(told.get("at"))} for told in series.counts.values()],
        "associations": [
            {
                "id": one.id,
                "calling_ae_title": one.calling_ae_title,
                "ending": one.ending,
                "ended_at": moment(one.ended_at),
            }
            for one in evidence.associations
        ],
        "refused_here": [
            {"sop_instance_uid": uid, "file": aside.file, "reason": aside.reason}
            for uid, aside in evidence.aside.items()
        ],
        "other_bytes": [
            {
                "sop_instance_uid": one["sop_instance_uid"],
                "calling_ae_title": one["calling_ae_title"],
                "received_at": moment(one["received_at"]),
                "sha256": one["sha256"],
                "file": one["file"],
            }
            for one in evidence.conflicts
        ],
    }


def evidence_lines(series: "StoredSeries", evidence: Evidence) -> list[str]:
    """The same for the eye."""
    signs = {True: "+", False: "-", None: " "}
    lines = [
        f"  {signs[one['holds']]} {one['evidence']}: {one['words']}" for one in series.findings
    ]
    for peer, told in series.counts.items():
        said = f"{counted(told['instances'] or 0, 'instance')}, when {told['held']} were here"
        answer = "no answer yet" if told["instances"] is None else said
        error = f"; {told['error']}" if told["error"] else ""
        lines.append(f"  asked     {peer}, {moment(told.get('at'))}: {answer}{error}")
        lines += [f"    missing {one}{_refused_here(one, evidence)}" for one in told["missing"]]
        if told["missing_count"] > len(told["missing"]):
            lines.append(f"    and {told['missing_count'] - len(told['missing'])} more")
    for ending, count in Counter(one.ending for one in evidence.associations).items():
        lines.append(f"  {counted(count, 'association')} {ending or 'open'}")
    lines += [
        f"  other bytes of {one['sop_instance_uid']} came from {one['calling_ae_title']}, "
        f"{moment(one['received_at'])}: aside/{one['file']}; the first ones are in use"
        for one in evidence.conflicts
    ]
    return lines


def missing_uids(series: "StoredSeries") -> set[str]:
    """The SOP Instance UIDs that Peers named as missing here."""
    named = [one for told in series.counts.values() for one in told["missing"]]
    return {one.rpartition("(")[2].rstrip(")") for one in named}


def _refused_here(missing: str, evidence: Evidence) -> str:
    """Whether we refused it ourselves: the volume lacks it all the same."""
    for uid, aside in evidence.aside.items():
        if missing == uid or missing.endswith(f"({uid})"):
            return f": refused here, {aside.reason} (aside/{aside.file})"
    return ""


def story_values(
    series: "StoredSeries",
    evidence: Evidence,
    channels: Sequence["Waiting"],
    jobs: Sequence[JobStory],
    waits_for: str | None = None,
) -> dict[str, Any]:
    """A Series with all its Jobs, for `jobs explain --json`. waits_for: of an open one."""
    return series_values(series) | {
        "waits_for": waits_for,
        "evidence": evidence_values(series, evidence),
        "channels": [waiting_values(one) for one in channels],
        "jobs": [
            job_values(one.job, one.deliveries) | {"history": list(map(event_values, one.events))}
            for one in jobs
        ],
    }


def story_lines(
    series: "StoredSeries",
    evidence: Evidence,
    channels: Sequence["Waiting"],
    jobs: Sequence[JobStory],
    waits_for: str | None = None,
) -> list[str]:
    """A Series with all its Jobs, for `jobs explain`."""
    head = series_lines(series) if waits_for is None else open_lines(series, waits_for)
    lines = [*head, *evidence_lines(series, evidence)]
    lines += [waiting_line(one) for one in channels]
    return lines + [line for story in jobs for line in job_lines(story)]


def model_values(model: Model) -> dict[str, Any]:
    """One Model as it appears in `models list --json`."""
    return {
        "name": model.name,
        "title": model.title,
        "version": model.version,
        "folder": str(model.folder),
        "fingerprint": model.fingerprint,
        "orientation": model.orientation,
        "orientation_assumed": model.orientation_assumed,
        "profile": model.profile.value,
        "previous_stage": str(model.previous_stage.folder) if model.previous_stage else None,
        "segments": [segment.label for segment in model.segments],
        "guessed_segments": [s.label for s in model.segments if s.guessed],
    }


def model_lines(model: Model) -> list[str]:
    """One Model, for `models list`."""
    assumed = " (assumed: nobody says so)" if model.orientation_assumed else ""
    first = model.previous_stage
    return [
        f"{model.name}: {model.title} {model.version}",
        f"  folder       {model.folder}",
        f"  fingerprint  {model.fingerprint}",
        *([f"  first stage  {first.folder}"] if first else []),
        f"  orientation  {model.orientation}{assumed}",
        f"  profile      {model.profile}",
        f"  segments     {', '.join(segment.label for segment in model.segments)}",
        *_guessed_lines(model),
    ]


def _guessed_lines(model: Model) -> list[str]:
    count = sum(segment.guessed for segment in model.segments)
    codes = "1 code is a guess" if count == 1 else f"{count} codes are guesses"
    return [f"  codes        {codes}; check them in model.toml"] if count else []
