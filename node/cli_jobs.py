"""`segnode jobs`: the queue, what happened and why, and doing it again."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from node import show
from node.core.config import Config
from node.core.errors import Fatal
from node.core.job import Job, JobEvent, JobState
from node.core.names import JobId, SeriesInstanceUID
from node.show_jobs import JobStory, job_lines, list_lines
from node.terminal import DEFAULT_CONFIG, AsJson, ConfigPath, fail, load, out, print_json


def _job_number(text: str) -> int:
    if not text.isdecimal():
        raise typer.BadParameter(f'"{text}" is not the number of a Job')
    return int(text)


JobNumber = Annotated[int, typer.Argument(parser=_job_number, metavar="JOB")]

jobs_app = typer.Typer(help="The queue: what happened, why, and doing it again.")


@jobs_app.command("list")
def jobs_list(
    config: ConfigPath = DEFAULT_CONFIG,
    state: Annotated[JobState | None, typer.Option(help="Only Jobs in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100,
    only_open: Annotated[
        bool, typer.Option("--open", help="Series that are not closed yet, and what they wait for.")
    ] = False,
    unrouted: Annotated[
        bool, typer.Option("--unrouted", help="Series that no route took, instead of Jobs.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """The latest Jobs first, then the Series that are open, then those that no route took."""
    settings = load(config)
    every = state is None and not (only_open or unrouted)
    with _stores(config) as (jobs, series):
        found = [] if only_open or unrouted else jobs.list(state, limit)
        opened = series.still_open(limit) if only_open or (every and not as_json) else []
        waits = [(one, _waits_for(one, series, settings)) for one in opened]
        left = series.unrouted(limit) if unrouted or (every and not as_json) else []
        deliveries = jobs.deliveries_of([job.id for job in found])
    if as_json and only_open:
        print_json([show.series_values(one) | {"waits_for": words} for one, words in waits])
    elif as_json and unrouted:
        print_json([show.series_values(one) for one in left])
    elif as_json:
        print_json([show.job_values(job, deliveries[job.id]) for job in found])
    else:
        if not found and (every or state is not None):
            out.print("no Jobs")
        lines = list_lines(found, deliveries)
        lines += [line for one, words in waits for line in show.open_lines(one, words)]
        lines += [line for one in left for line in show.series_lines(one)]
        _print_lines(lines)


@jobs_app.command("show")
def jobs_show(
    job_id: JobNumber, config: ConfigPath = DEFAULT_CONFIG, as_json: AsJson = False
) -> None:
    """One Job: state, attempts, deliveries, history."""
    with _stores(config) as (jobs, _):
        story = _job_story(jobs, _job(jobs, job_id))
    if as_json:
        history = [show.event_values(event) for event in story.events]
        print_json(show.job_values(story.job, story.deliveries) | {"history": history})
    else:
        _print_lines(job_lines(story))


@jobs_app.command("explain")
def jobs_explain(
    uid: Annotated[
        str, typer.Argument(help="A Series, Study or SOP Instance UID, of a result as well.")
    ],
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """What happened to a Series: received, closed, routed, segmented, delivered."""
    settings = load(config)
    with _stores(config) as (jobs, series):
        made = jobs.of_result(uid)
        sources = dict.fromkeys(one for job in made for one in job.series_instance_uids)
        found = series.find(uid) or [series.get(source) for source in sources]
        stories = [_story(jobs, series, one, settings) for one in found]
    if not stories:
        fail(f"{uid}: no Instance of such a Series, Study or SOP Instance UID was received or made")
    if as_json:
        print_json([show.story_values(*story) for story in stories])
    else:
        _print_lines([f"{uid} is of the result of Job {job.id}" for job in made])
        _print_lines([line for story in stories for line in show.story_lines(*story)])


def _story(jobs: Any, series: Any, one: Any, settings: Config) -> tuple[Any, ...]:
    """What `show.story_lines` and `show.story_values` take."""
    from node.dicom.aside import refused_of

    uid = one.series_instance_uid
    associations = series.associations(uid)
    aside = refused_of(settings.node.data_dir, show.missing_uids(one))
    evidence = show.Evidence(associations, series.conflicts(uid), aside)
    told = [_job_story(jobs, job) for job in reversed(jobs.of_series(uid))]
    waits_for = _waits_for(one, series, settings) if one.closed_at is None else None
    return one, evidence, series.waits(uid), told, waits_for


def _job_story(jobs: Any, job: Job) -> JobStory:
    return JobStory(
        job,
        jobs.deliveries(job.id),
        jobs.events(job.id),
        {one.sop_instance_uid: one.form for one in (*jobs.given(job.id), *jobs.objects(job.id))},
        jobs.superseding(job.id),
    )


@jobs_app.command("rerun")
def jobs_rerun(
    what: Annotated[str, typer.Argument(help="A Job, or the UID of a Series.")],
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Queue a failed, rejected or cancelled Job again; route a Series again, for new routes.

    A Series that is routed again gets Jobs of those Models only that it has none of.
    """
    with _stores(config) as (jobs, series):
        if what.isdecimal():
            job = _job(jobs, int(what))
            _print_moved(jobs.rerun(job.id, job.state, time.time()), as_json)
            return
        uid = SeriesInstanceUID(what)
        if (held := series.get(uid)) is not None and held.purged_at is not None:
            raise Fatal(f"the instance files of Series {what} are deleted; send it again")
        if held is not None and held.closed_at is None:
            raise Fatal(
                f"Series {what} is open, and is routed once it closes: "
                f"{_waits_for(held, series, load(config))}"
            )
        if not series.reopen(uid, time.time()):
            raise Fatal(f"{what}: no Series has this UID; see segnode jobs list")
        if as_json:
            print_json({"series_instance_uid": what, "state": "open"})
        else:
            out.print(f"Series {what} is open again; it is routed anew once it is quiet")


@jobs_app.command("resend")
def jobs_resend(
    job_id: JobNumber, config: ConfigPath = DEFAULT_CONFIG, as_json: AsJson = False
) -> None:
    """Send the result objects of a finished Job again; of one under way, what waits, now."""
    from node.dicom.outbox import Outbox

    with _stores(config) as (jobs, _):
        job = _job(jobs, job_id)
        if job.purged_at is None:  # else the store says that its files are deleted
            uids = [one.sop_instance_uid for one in jobs.objects(job.id)]
            Outbox(load(config).node.data_dir).require(job.id, uids)
        _print_moved(jobs.resend(job.id, job.state, time.time()), as_json)


@jobs_app.command("cancel")
def jobs_cancel(
    job_id: JobNumber, config: ConfigPath = DEFAULT_CONFIG, as_json: AsJson = False
) -> None:
    """End a Job that is queued or not yet delivered."""
    with _stores(config) as (jobs, _):
        job = _job(jobs, job_id)
        reason = "cancelled by hand"
        moved = jobs.transition(job.id, job.state, JobEvent.CANCEL, time.time(), reason)
        _print_moved(moved, as_json)


@contextmanager
def _stores(path: Path) -> Iterator[tuple[Any, Any]]:
    """The Jobs and Series of a data folder, beside the node that may be running on it."""
    from node.store import database
    from node.store.jobs import JobStore
    from node.store.series import SeriesStore

    engine = database.connect(load(path).node.data_dir)
    try:
        database.require_current(engine)
        yield JobStore(engine), SeriesStore(engine)
    finally:
        engine.dispose()


def _job(jobs: Any, job_id: int) -> Job:
    job: Job | None = jobs.get(JobId(job_id))
    if job is None:
        raise Fatal(f"there is no Job {job_id}; see segnode jobs list")
    return job


def _waits_for(one: Any, series: Any, settings: Config) -> str:
    from node.opened import waits_for

    return waits_for(one, series, settings, time.time())


def _print_lines(lines: list[str]) -> None:
    for line in lines:
        out.print(escape(line))


def _print_moved(job: Job, as_json: bool) -> None:
    if as_json:
        print_json({"id": job.id, "state": job.state.value})
    else:
        out.print(f"Job {job.id} is {job.state} now")
