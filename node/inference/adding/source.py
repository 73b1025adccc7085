"""Where in what a person names the trained model lies: a folder, or a zip, at any depth.

What follows when there are several is the person's choice, never ours.
"""

import os
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from node.core.errors import ConfigError
from node.inference.adding.archive import Archive
from node.inference.cascade import PREVIOUS_STAGE, wanted_before
from node.inference.checkpoint import trained_configuration
from node.inference.folder import (
    CHECKPOINTS,
    DATASET,
    PLANS,
    checkpoint_path,
    find_checkpoints,
    read_json,
)
from node.inference.plans import resolve

_DEEPEST = 6  # folders below the one that is named; TotalSegmentator's data folder needs four
_VERSION_1 = ("plans.pkl", "model_final_checkpoint.model")


@contextmanager
def trained_folder(source: Path, scratch: Path) -> Iterator[Path]:
    """The one trained model folder in `source`, with a cascade's first stage beside or in it.

    `source` is a folder, a zip, or a folder within a zip (export.zip/Dataset…/…). A zip's files
    lie in a folder in `scratch` until the context ends. Raises ConfigError where there is none,
    or more than one.
    """
    zip_path = next((p for p in (source, *source.parents) if p.is_file()), None)
    if zip_path is None:
        yield _in_folder(source)
    elif not zipfile.is_zipfile(zip_path):
        raise ConfigError(f"{zip_path}: is neither a folder nor a zip")
    else:
        inner = PurePosixPath(source.relative_to(zip_path).as_posix())
        with TemporaryDirectory(dir=scratch, prefix=".unpacked-") as unpacked:
            yield _in_zip(zip_path, inner, Path(unpacked))


def trained_folders(files: Collection[PurePosixPath]) -> list[PurePosixPath]:
    """The folders among `files` that nnU-Net's training left; the first stage inside one is its."""
    names = set(files)
    trained = {
        file.parent.parent
        for file in names
        if file.name in CHECKPOINTS and file.parent.name.startswith("fold_")
    }
    found = {folder for folder in trained if {folder / PLANS, folder / DATASET} <= names}
    return sorted(f for f in found if f.name != PREVIOUS_STAGE or f.parent not in found)


def first_stage(folder: Path) -> str | None:
    """The configuration that comes before this one in a cascade, or None. Raises ConfigError."""
    checkpoint_name, folds = find_checkpoints(folder)
    configuration = trained_configuration(checkpoint_path(folder, folds[0], checkpoint_name))
    return wanted_before(resolve(read_json(folder / PLANS), configuration), folder)


def _in_folder(source: Path) -> Path:
    if not source.is_dir():
        raise ConfigError(f"{source}: there is no such folder or zip")
    return source / _the_one(source, list(_files(source)))


def _in_zip(path: Path, inner: PurePosixPath, unpacked: Path) -> Path:
    with Archive(path) as archive:
        files = archive.files
        chosen = _the_one(path, [file for file in files if file.is_relative_to(inner)])
        archive.extract(chosen, unpacked)
        wanted = first_stage(unpacked / chosen)
        if wanted and not (unpacked / chosen / PREVIOUS_STAGE).is_dir():
            archive.extract(_beside(path, chosen, wanted, files), unpacked)
    return unpacked / chosen


def _beside(
    path: Path, second: PurePosixPath, wanted: str, files: Collection[PurePosixPath]
) -> PurePosixPath:
    """A cascade's first stage in the zip, where nnU-Net puts it. Raises ConfigError without one."""
    trainer_and_plans, _, _ = second.name.rpartition("__")
    first = second.parent / f"{trainer_and_plans}__{wanted}"
    if first not in trained_folders(files):
        raise ConfigError(
            f"{path}: {second} is the second stage of a cascade, and its first, {wanted}, is not "
            f"in the zip; export both, {first} and {second}, into one"
        )
    return first


def _files(root: Path) -> Iterator[PurePosixPath]:
    """Every file below `root`, relative to it; links to folders are not followed."""
    for folder, subfolders, names in os.walk(root):
        inside = PurePosixPath(Path(folder).relative_to(root).as_posix())
        if len(inside.parts) >= _DEEPEST + 1:  # the folds lie one below the model
            subfolders.clear()
        yield from (inside / name for name in names)


def _the_one(source: Path, files: Collection[PurePosixPath]) -> PurePosixPath:
    found = trained_folders(files)
    if len(found) == 1:
        return found[0]
    if found:
        listed = "".join(f"\n  {source / folder}" for folder in found)
        raise ConfigError(f"{source}: holds {len(found)} trained models; name one:{listed}")
    if any(file.name in _VERSION_1 for file in files):
        raise ConfigError(f"{source}: is an nnU-Net v1 model; only models of nnU-Net v2 are run")
    raise ConfigError(
        f"{source}: there is no trained nnU-Net v2 model in it: a folder with {PLANS}, {DATASET} "
        f"and fold_0 … fold_all with a {' or '.join(CHECKPOINTS)}"
    )
