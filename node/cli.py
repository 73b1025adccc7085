"""The command `segnode`: reads arguments, prints, decides nothing."""

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.markup import escape
from typer.exceptions import Abort, TyperException

from node import __version__, show
from node.cli_jobs import jobs_app
from node.cli_purge import purge
from node.cli_routes import routes_app
from node.core.config import Config
from node.core.disk import keep_from_others
from node.core.errors import ConfigError, SegnodeError
from node.core.model import Profile
from node.core.names import AETitle
from node.logs import configure_logging
from node.terminal import (
    DEFAULT_CONFIG,
    AsJson,
    ConfigPath,
    cache_folder,
    fail,
    load,
    note,
    out,
    print_json,
    require_folder,
)

app = typer.Typer(
    help="Segments DICOM series with nnU-Net v2 models. Research use; not a medical device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
models_app = typer.Typer(help="The models of the configuration.")
app.add_typer(jobs_app, name="jobs", no_args_is_help=True)
app.add_typer(routes_app, name="routes", no_args_is_help=True)
app.add_typer(models_app, name="models", no_args_is_help=True)
app.command()(purge)


def main() -> NoReturn:
    """The entry point: an error we raised on purpose is one sentence, not a traceback or a box."""
    try:
        status = app(standalone_mode=False, prog_name="segnode")
    except SegnodeError as error:
        fail(str(error))
    except TyperException as error:
        _end_with(error)
    except Abort:
        sys.exit(1)
    sys.exit(status if isinstance(status, int) else 0)


def _end_with(error: Any) -> NoReturn:
    """Arguments that make no sense: which, why, and where the right ones stand."""
    message = error.format_message()
    if message:  # else it has shown its help
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "segnode"
        print(f"segnode: {message.rstrip('.')}; see {command} --help", file=sys.stderr)
    sys.exit(error.exit_code)


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

    settings = load(config)
    keep_from_others()
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

    findings = list(checks.check(load(config)))
    if as_json:
        print_json([vars(finding) for finding in findings])
    for finding in [] if as_json else findings:
        out.print(f"{finding.verdict:<6}{escape(finding.subject)}: {escape(finding.sentence)}")
    if checks.faults(findings):
        raise typer.Exit(1)


@app.command()
def predict(
    model_folder: Annotated[Path, typer.Argument(help="An nnU-Net v2 trained model folder.")],
    dicom_folder: Annotated[Path, typer.Argument(help="One or more Series.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the files go.")],
    profile: Annotated[
        Profile | None, typer.Option(help="How exactly the Model is run; overrides model.toml.")
    ] = None,
    nifti: Annotated[bool, typer.Option("--nifti", help="Write NIfTI label maps, too.")] = False,
    channel: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=SERIES_UID_OR_FOLDER",
            help="The Series of one channel, where the Model reads several; once for each.",
        ),
    ] = None,
    orientation: Annotated[
        str | None, typer.Option(help="How the training arrays lay; overrides model.toml.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    backend: Annotated[str, typer.Option(help="auto, torch or openvino.")] = "auto",
) -> None:
    """The same pipeline without a network: a folder of DICOM files in, SEG files out."""
    from node.chosen import by_channel, require_one_channel
    from node.inference.engine import InProcessEngine
    from node.inference.model import load_model
    from node.predict import predict_folder, predict_series, torn_files

    configure_logging("console", "warning")
    require_folder(dicom_folder)
    model = load_model(model_folder.resolve().name, model_folder, orientation, profile)
    chosen = by_channel(model, dicom_folder, channel) if channel else []
    if not chosen:
        require_one_channel(model)
    if model.orientation_assumed:
        note(f"{model_folder} does not say how its training arrays lay; RAS is assumed")
    torn = torn_files(dicom_folder)
    for path, why in torn:
        note(f"{path} {why}")
    engine = InProcessEngine(device, 0, backend, cache_folder())
    if chosen:
        predictions = iter([predict_series(model, engine, chosen, output, nifti=nifti)])
    else:
        predictions = predict_folder(model, engine, dicom_folder, output, nifti=nifti)
    failed = bool(torn)
    for prediction in predictions:
        out.print(f"Series {escape(prediction.series_instance_uid) or 'without a UID'}")
        if prediction.reason:
            failed = True
            out.print(f"  no result: {escape(prediction.reason)}")
            continue
        for label, millilitres in prediction.volumes_ml:
            out.print(f"  {escape(label)}: {millilitres:.2f} ml")
        for path in prediction.files:
            out.print(f"  {escape(str(path))}")
        out.print(f"  {prediction.seconds} s, profile {model.profile}")
    if failed:
        raise typer.Exit(1)


@app.command()
def send(
    folder: Annotated[Path, typer.Argument(help="A folder, with those below, or one file.")],
    peer: Annotated[str, typer.Argument(help="A peer's name in the configuration.")],
    config: ConfigPath = DEFAULT_CONFIG,
) -> None:
    """Send the DICOM files of a folder to a peer as they lie; exit 1 where one is not stored."""
    from node.dicom.scu.answers import Outcome
    from node.dicom.scu.instance import dicom_files
    from node.dicom.scu.storage import store
    from node.show_sent import sent_lines

    settings = load(config)
    if not folder.is_file():
        require_folder(folder)
    target = _peer(settings, peer)
    files = dicom_files(folder)
    if not files:
        fail(f"{folder}: there are no DICOM files in it")
    stored = store(files, target, AETitle(settings.dicom.ae_title))
    out.print("\n".join(escape(line) for line in sent_lines(files, stored, target)))
    count = sum(one.outcome is Outcome.STORED for one in stored)
    if count < len(files):
        fail(f"{count} of {len(files)} instances were stored")


@app.command()
def echo(
    peer: Annotated[str, typer.Argument(help="A peer's name in the configuration.")],
    config: ConfigPath = DEFAULT_CONFIG,
) -> None:
    """C-ECHO a peer; a DICOMweb one is asked a question."""
    from node.dicom.scu.storage import echo as ask

    settings = load(config)
    target = _peer(settings, peer)
    began = time.monotonic()
    ask(target, AETitle(settings.dicom.ae_title))
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
    from node.configured.models import models_of

    models = models_of(load(config))
    if as_json:
        print_json([show.model_values(model) for model in models.values()])
        return
    for model in models.values():
        out.print("\n".join(escape(line) for line in show.model_lines(model)))


@models_app.command("add")
def models_add(
    source: Annotated[Path, typer.Argument(help="A trained model folder, or a zip.")],
    name: Annotated[str | None, typer.Option(help="Its name; else from its dataset's.")] = None,
    to: Annotated[
        Path | None, typer.Option(help="Its folder; else models/NAME beside the configuration.")
    ] = None,
    config: ConfigPath = DEFAULT_CONFIG,
) -> None:
    """Take a trained nnU-Net v2 model in: checked, as safetensors, with a model.toml."""
    from node.inference.adding.add import add_model
    from node.show_added import added_lines

    beside = config.resolve().parent
    added = add_model(source, beside / "models", name, to)
    out.print("\n".join(escape(line) for line in added_lines(added, beside)))


@models_app.command("check")
def models_check(
    config: ConfigPath = DEFAULT_CONFIG,
    device: Annotated[str | None, typer.Option(help="In place of inference.device.")] = None,
) -> None:
    """Load each model's network and run it once on noise; exit 1 where one cannot."""
    from node.configured.models import engine_of, models_of

    settings = load(config)
    configure_logging("console", "warning")
    if device is not None:
        inference = settings.inference.model_copy(update={"device": device})
        settings = settings.model_copy(update={"inference": inference})
    engine = engine_of(settings, models_of(settings), cache_folder())
    engine.start()
    try:
        for name, seconds in engine.wait_ready(3600.0).items():
            out.print(f"ok    {escape(name)}: loaded and run once in {seconds:.1f} s")
    finally:
        engine.stop()


def _peer(settings: Config, name: str) -> Any:
    from node.configured.peers import peers_of

    peers = peers_of(settings)
    if name not in peers:
        raise ConfigError(f'there is no peer "{name}"; known: {", ".join(sorted(peers))}')
    return peers[name]


class _Stopped(BaseException):
    """SIGTERM or Ctrl-C came."""


def _stop(*_: object) -> NoReturn:
    """Unwinds the node from wherever it is; a second signal is ignored."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise _Stopped
