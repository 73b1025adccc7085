"""The command `segnode`: reads arguments, prints, decides nothing."""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from node import __version__, show
from node.core import config as configuration
from node.core.config import Config
from node.core.errors import ConfigError, Fatal, SegnodeError
from node.core.job import Job, JobEvent, JobState
from node.core.names import AETitle, JobId, SeriesInstanceUID
from node.logs import configure_logging

app = typer.Typer(
    help="Segments DICOM series with nnU-Net v2 models. Research use; not a medical device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
jobs_app = typer.Typer(help="The queue: what happened, why, and doing it again.")
models_app = typer.Typer(help="The models of the configuration.")
app.add_typer(jobs_app, name="jobs", no_args_is_help=True)
app.add_typer(models_app, name="models", no_args_is_help=True)

out = Console(highlight=False, soft_wrap=True)

ConfigPath = Annotated[
    Path, typer.Option("--config", "-c", envvar="SEGNODE_CONFIG", help="The configuration file.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
DEFAULT_CONFIG = Path("node.toml")


class Profile(StrEnum):
    """How exactly the Model is run."""

    EXACT = "exact"


def main() -> NoReturn:
    """The entry point: an error we raised on purpose is one sentence, not a traceback."""
    try:
        app()
    except SegnodeError as error:
        _fail(str(error))
    sys.exit(0)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        out.print(f"segnode {__version__} (research use; not a medical device)")
        raise typer.Exit


@app.command()
def serve(config: ConfigPath = DEFAULT_CONFIG) -> None:
    """Run the node until SIGTERM or Ctrl-C, which drain and stop it within 10 s."""
    from node.app import Node

    settings = _load(config)
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    try:
        with Node(settings):
            signal.pause()
    except _Stopped:
        # All that counts is on disk. pynetdicom's thread for a peer that says nothing is not.
        sys.stderr.flush()
        os._exit(0)


@app.command()
def check(config: ConfigPath = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Look at configuration, models, database, disk and every peer; exit 1 on a fault."""
    from node import checks

    findings = list(checks.check(_load(config)))
    if as_json:
        _print_json([vars(finding) for finding in findings])
    for finding in [] if as_json else findings:
        out.print(f"{finding.verdict:<6}{escape(finding.subject)}: {escape(finding.sentence)}")
    if checks.faults(findings):
        raise typer.Exit(1)


@app.command()
def predict(
    model_folder: Annotated[Path, typer.Argument(help="An nnU-Net v2 trained model folder.")],
    dicom_folder: Annotated[Path, typer.Argument(help="One or more Series.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the files go.")],
    profile: Annotated[Profile, typer.Option(help="How exactly the Model is run.")] = Profile.EXACT,
    nifti: Annotated[bool, typer.Option("--nifti", help="Write NIfTI label maps, too.")] = False,
    orientation: Annotated[
        str | None, typer.Option(help="How the training arrays lay, where no model.toml says it.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """The same pipeline without a network: a folder of DICOM files in, SEG files out."""
    from node.app import require_one_channel
    from node.inference.engine import InProcessEngine
    from node.inference.model import load_model
    from node.predict import predict_folder

    configure_logging("console", "warning")
    model = load_model(model_folder.resolve().name, model_folder, orientation)
    require_one_channel(model)
    if model.orientation_assumed:
        _note(f"{model_folder} does not say how its training arrays lay; RAS is assumed")
    engine = InProcessEngine(device, 0)
    failed = False
    for prediction in predict_folder(model, engine, dicom_folder, output, nifti=nifti):
        out.print(f"Series {prediction.series_instance_uid}")
        if prediction.reason:
            failed = True
            out.print(f"  no result: {escape(prediction.reason)}")
            continue
        for label, millilitres in prediction.volumes_ml:
            out.print(f"  {escape(label)}: {millilitres:.2f} ml")
        for path in prediction.files:
            out.print(f"  {escape(str(path))}")
        out.print(f"  {prediction.seconds} s, profile {profile}")
    if failed:
        raise typer.Exit(1)


@app.command()
def send(
    folder: Annotated[Path, typer.Argument(help="DICOM files, and folders below.")],
    peer: Annotated[str, typer.Argument(help="A peer's name in the configuration.")],
    config: ConfigPath = DEFAULT_CONFIG,
) -> None:
    """C-STORE every DICOM file of a folder to a peer."""
    from node.dicom import scu

    settings = _load(config)
    target = _peer(settings, peer)
    files = scu.dicom_files(folder)
    if not files:
        _fail(f"{folder}: there are no DICOM files in it")
    answer = scu.send(files, target, AETitle(settings.dicom.ae_title))
    out.print(f"{len(files)} instances → {escape(str(target))}: {escape(answer)}")


@app.command()
def echo(
    peer: Annotated[str, typer.Argument(help="A peer's name in the configuration.")],
    config: ConfigPath = DEFAULT_CONFIG,
) -> None:
    """C-ECHO a peer."""
    from node.dicom import scu

    settings = _load(config)
    target = _peer(settings, peer)
    began = time.monotonic()
    scu.echo(target, AETitle(settings.dicom.ae_title))
    out.print(f"{escape(str(target))} answers, {(time.monotonic() - began) * 1000:.0f} ms")


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave node and PACS running.")] = False,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where everything goes.")] = Path(
        "demo-out"
    ),
) -> None:
    """Start a node and a small PACS, send the demo series, show the SEG that comes back."""
    from node.demo.run import run

    if not run(output, keep=keep, out=out):
        raise typer.Exit(1)


@app.command("demo-pacs", hidden=True)
def demo_pacs(folder: Path, port: int) -> None:
    """The small PACS of the demo."""
    from node.demo.processes import serve_pacs

    configure_logging("json", "info")
    signal.signal(signal.SIGTERM, _stop)
    with suppress(_Stopped):
        serve_pacs(folder, port)


@models_app.command("list")
def models_list(config: ConfigPath = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Which models the configuration names, from where, with which fingerprint."""
    from node.app import models_of

    models = models_of(_load(config))
    if as_json:
        _print_json([show.model_values(model) for model in models.values()])
        return
    for model in models.values():
        out.print("\n".join(escape(line) for line in show.model_lines(model)))


@models_app.command("check")
def models_check(config: ConfigPath = DEFAULT_CONFIG, device: str = "auto") -> None:
    """Load each model's network and run it once on noise; exit 1 where one cannot."""
    from node.app import models_of
    from node.inference.engine import WorkerEngine

    configure_logging("console", "warning")
    engine = WorkerEngine(models_of(_load(config)), device, 0, 3600.0)
    engine.start()
    try:
        for name, seconds in engine.wait_ready(3600.0).items():
            out.print(f"ok    {escape(name)}: loaded and run once in {seconds:.1f} s")
    finally:
        engine.stop()


@jobs_app.command("list")
def jobs_list(
    config: ConfigPath = DEFAULT_CONFIG,
    state: Annotated[JobState | None, typer.Option(help="Only Jobs in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100,
    unrouted: Annotated[
        bool, typer.Option("--unrouted", help="Series that no route took, instead of Jobs.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """The latest Jobs first, then the Series that no route took."""
    with _stores(config) as (jobs, series):
        rows = (
            [] if unrouted else [(job, jobs.deliveries(job.id)) for job in jobs.list(state, limit)]
        )
        left = series.unrouted(limit) if unrouted or (state is None and not as_json) else []
        if as_json and unrouted:
            _print_json([show.series_values(one) for one in left])
        elif as_json:
            _print_json([show.job_values(*row) for row in rows])
        else:
            _print_jobs([job for job, _ in rows])
            for one in left:
                out.print("\n".join(escape(line) for line in show.series_lines(one)))


@jobs_app.command("show")
def jobs_show(job_id: int, config: ConfigPath = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """One Job: state, attempts, deliveries, history."""
    with _stores(config) as (jobs, _):
        job = _job(jobs, job_id)
        deliveries, events = jobs.deliveries(job.id), jobs.events(job.id)
    if as_json:
        history = [show.event_values(event) for event in events]
        _print_json(show.job_values(job, deliveries) | {"history": history})
    else:
        out.print("\n".join(escape(line) for line in show.job_lines(job, deliveries, events)))


@jobs_app.command("explain")
def jobs_explain(
    uid: Annotated[str, typer.Argument(help="A Series, Study or SOP Instance UID.")],
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """What happened to a Series: received, closed, routed, segmented, delivered."""
    with _stores(config) as (jobs, series):
        found = series.find(uid)
        stories = [
            (
                one,
                [
                    (j, jobs.deliveries(j.id), jobs.events(j.id))
                    for j in reversed(jobs.of_series(one.series_instance_uid))
                ],
            )
            for one in found
        ]
    if not found:
        _fail(f"{uid}: no Instance of such a Series, Study or SOP Instance UID was received")
    if as_json:
        _print_json([show.story_values(*story) for story in stories])
    else:
        for story in stories:
            out.print("\n".join(escape(line) for line in show.story_lines(*story)))


@jobs_app.command("rerun")
def jobs_rerun(
    what: Annotated[str, typer.Argument(help="A Job, or the UID of a Series without one.")],
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Queue a failed, rejected or cancelled Job again; route a Series again that has none."""
    with _stores(config) as (jobs, series):
        if what.isdigit():
            job = _job(jobs, int(what))
            _print_moved(jobs.rerun(job.id, job.state, time.time()), as_json)
            return
        uid = SeriesInstanceUID(what)
        if jobs.of_series(uid):
            raise Fatal(f"{what} has Jobs: rerun one of those, see segnode jobs explain {what}")
        if not series.reopen(uid, time.time()):
            raise Fatal(f"{what}: no closed Series has this UID")
        if as_json:
            _print_json({"series_instance_uid": what, "state": "open"})
        else:
            out.print(f"Series {what} is open again; it is routed anew once it is quiet")


@jobs_app.command("resend")
def jobs_resend(job_id: int, config: ConfigPath = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Send the result of a finished Job again."""
    from node.dicom.outbox import Outbox

    with _stores(config) as (jobs, _):
        job = _job(jobs, job_id)
        Outbox(_load(config).node.data_dir).files(job)
        _print_moved(jobs.resend(job.id, job.state, time.time()), as_json)


@jobs_app.command("cancel")
def jobs_cancel(job_id: int, config: ConfigPath = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """End a Job that is queued or not yet delivered."""
    with _stores(config) as (jobs, _):
        job = _job(jobs, job_id)
        reason = "cancelled by hand"
        moved = jobs.transition(job.id, job.state, JobEvent.CANCEL, time.time(), reason)
        _print_moved(moved, as_json)


def _load(path: Path) -> Config:
    settings = configuration.load(path)
    configure_logging(settings.log.format, settings.log.level)
    return settings


@contextmanager
def _stores(path: Path) -> Iterator[tuple[Any, Any]]:
    """The Jobs and Series of a data folder, beside the node that may be running on it."""
    from node.store import database
    from node.store.jobs import JobStore
    from node.store.series import SeriesStore

    engine = database.connect(_load(path).node.data_dir)
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


def _peer(settings: Config, name: str) -> Any:
    from node.app import peers_of

    peers = peers_of(settings)
    if name not in peers:
        raise ConfigError(f'there is no peer "{name}"; known: {", ".join(sorted(peers))}')
    return peers[name]


def _print_jobs(jobs: list[Job]) -> None:
    table = Table("Job", "State", "Model", "Series", "Attempts", "Updated", "Reason", box=None)
    for job in jobs:
        reason = (job.reason or "").splitlines()[-1:] or [job.stage or ""]
        cells = [
            str(job.id),
            job.state.value,
            job.model,
            job.series_instance_uids[0],
            str(job.attempts),
            show.moment(job.updated_at) or "",
            reason[0],
        ]
        table.add_row(*(escape(cell) for cell in cells))
    out.print(table if jobs else "no Jobs")


def _print_moved(job: Job, as_json: bool) -> None:
    if as_json:
        _print_json({"id": job.id, "state": job.state.value})
    else:
        out.print(f"Job {job.id} is {job.state} now")


def _print_json(values: Any) -> None:
    print(json.dumps(values, indent=2))


def _note(sentence: str) -> None:
    print(f"note: {sentence}", file=sys.stderr)


def _fail(sentence: str) -> NoReturn:
    print(f"segnode: {sentence}", file=sys.stderr)
    sys.exit(1)


class _Stopped(BaseException):
    """SIGTERM or Ctrl-C came."""


def _stop(*_: object) -> NoReturn:
    """Unwinds the node from wherever it is; a second signal is ignored."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise _Stopped
