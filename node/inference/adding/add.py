"""`segnode models add`: a trained model folder, or a zip of one, becomes a Model of this node.

Found, tried, written beside as safetensors with a model.toml, fsynced, renamed.
"""

import contextlib
import fcntl
import io
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from node.core.disk import fsync_folder
from node.core.errors import ConfigError
from node.core.model import Model
from node.inference import environment
from node.inference.adding.drafting import draft, title
from node.inference.adding.source import trained_folder
from node.inference.cascade import PREVIOUS_STAGE
from node.inference.checkpoint import SAFETENSORS
from node.inference.folder import DATASET, DESCRIPTION, PLANS, checkpoint_path, read_json
from node.inference.model import load_model

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # a bare key in node.toml, and a folder


@dataclass(frozen=True)
class Added:
    """A Model where it lies now. architecture: its network's class. drafted: model.toml is ours."""

    model: Model
    architecture: str
    drafted: bool


def add_model(
    source: Path, models: Path, name: str | None = None, target: Path | None = None
) -> Added:
    """Takes the trained model in `source` to models/NAME, or to `target`.

    Nothing is overwritten, and a half-written model never has its final name. Raises ConfigError
    saying why a model cannot be run here, or which of several is meant.
    """
    _require_name(name)
    beside = target.resolve().parent if target else models
    _make(beside)
    with trained_folder(source, beside) as folder:
        called = name or slug(_dataset_name(folder))
        place = target.resolve() if target else models / called
        try:
            with _part_of(place) as part:
                _refuse_taken(place)
                added = _write(called, folder, part)
                _settle(part, place)
        except OSError as error:
            raise ConfigError(f"{place}: cannot be written: {error}") from error
    return replace(added, model=_moved(added.model, part, place))


def slug(dataset_name: str) -> str:
    """Dataset297_TotalSegmentator_total_3mm_1559subj → totalsegmentator_total_3mm."""
    return re.sub(r"[^a-z0-9]+", "_", title(dataset_name).lower()).strip("_") or "model"


def _require_name(name: str | None) -> None:
    if name is not None and not _NAME.fullmatch(name):
        raise ConfigError(
            f'"{name}" cannot name a model: use up to 64 letters, digits, "-" and "_"'
        )


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be made: {error.strerror}") from error


def _dataset_name(folder: Path) -> str:
    return str(read_json(folder / PLANS).get("dataset_name", folder.name))


def _refuse_taken(place: Path) -> None:
    if place.is_dir() and not any(place.iterdir()):
        return
    if place.exists() or place.is_symlink():
        raise ConfigError(
            f"{place}: is already there, and nothing is overwritten; give the model another "
            "name (--name) or folder (--to), or move that one away"
        )


@contextlib.contextmanager
def _part_of(place: Path) -> Iterator[Path]:
    """An empty folder beside `place` that nobody else writes to; gone at the end, unless renamed.

    Raises ConfigError where another process adds the same model at this moment.
    """
    part = place.with_name(f".{place.name}.part")
    part.mkdir(exist_ok=True)
    descriptor = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        _lock(descriptor, part, place)
        try:
            _empty(part)  # of what an earlier attempt left that was killed
            yield part
        finally:
            if _is_at(part, descriptor):
                shutil.rmtree(part, ignore_errors=True)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, part: Path, place: Path) -> None:
    """For as long as the folder is open. The kernel takes the lock from whom it kills."""
    taken = False
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        taken = _is_at(part, descriptor)  # else another has renamed it in between: it is a Model
    if not taken:
        raise ConfigError(f"{place}: is being added by another process; wait until that has ended")


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _write(called: str, folder: Path, part: Path) -> Added:
    """The model in `folder` as it will be, in `part`; loaded once, as the node will."""
    model = load_model(called, folder)
    if model.previous_stage:
        _write_stage(model.previous_stage, part / PREVIOUS_STAGE)
    architecture = _write_stage(model, part)
    drafted = not (part / DESCRIPTION).exists()
    if drafted:
        _write_draft(model, part)
    return Added(load_model(called, part), architecture, drafted)


def _write_stage(model: Model, into: Path) -> str:
    """One stage's files: texts as they are, weights as safetensors. Returns the network's class.

    Raises ConfigError where it cannot be run here.
    """
    environment.prepare(0)
    with _silence():
        from node.inference.adding.runnable import Architecture
        from node.inference.adding.weights import write_checkpoint
        from node.inference.network import read_checkpoint

        architecture = Architecture(model.folder, model.configuration)
        _copy_texts(model.folder, into)
        for fold in model.folds:
            path = checkpoint_path(model.folder, fold, model.checkpoint_name)
            checkpoint = read_checkpoint(path)
            architecture.require_fit(checkpoint, path)
            written = checkpoint_path(into, fold, path.with_suffix(SAFETENSORS).name)
            written.parent.mkdir()
            write_checkpoint(written, checkpoint, model.configuration)
    return architecture.name


def _copy_texts(folder: Path, into: Path) -> None:
    into.mkdir(parents=True, exist_ok=True)
    for name in (PLANS, DATASET, DESCRIPTION):
        if (folder / name).exists():
            _write_file(into / name, (folder / name).read_bytes())


def _write_draft(model: Model, into: Path) -> None:
    plans, dataset = read_json(into / PLANS), read_json(into / DATASET)
    labels = [name for name, value in dataset["labels"].items() if _is_predicted(name, value)]
    reader = None if model.orientation_assumed else str(plans.get("image_reader_writer"))
    text = draft(_dataset_name(into), model.channels, labels, reader)
    _write_file(into / DESCRIPTION, text.encode())


def _is_predicted(label: str, value: object) -> bool:
    return label not in ("background", "ignore") and value not in (0, [0])


def _write_file(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _settle(part: Path, place: Path) -> None:
    """Every folder on disk, then the name, then the name on disk."""
    for folder, _, _ in os.walk(part, topdown=False):
        fsync_folder(Path(folder))
    part.rename(place)  # over an empty folder at most
    fsync_folder(place.parent)


def _moved(model: Model, part: Path, place: Path) -> Model:
    """The same Model under its final name; the fingerprint does not depend on it."""
    first = model.previous_stage and _moved(model.previous_stage, part, place)
    folder = place / model.folder.relative_to(part)
    return replace(model, folder=folder, previous_stage=first)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """nnU-Net prints and warns; stdout belongs to the command that runs."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
