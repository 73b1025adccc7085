"""The files of an nnU-Net v2 trained model folder: which there are, and one fingerprint of them."""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from node.core.errors import ConfigError
from node.core.model import Model, Profile

PLANS = "plans.json"
DATASET = "dataset.json"
DESCRIPTION = "model.toml"
CHECKPOINTS = (  # the first that is there; `segnode models add` writes safetensors
    "checkpoint_final.safetensors",
    "checkpoint_final.pth",
    "checkpoint_best.safetensors",
    "checkpoint_best.pth",
)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ConfigError naming the file."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(tree, ensure_ascii=False).encode()  # half a character (\ud800) is no text
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: is not JSON: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: is not a JSON object")
    return tree


def find_checkpoints(folder: Path) -> tuple[str, tuple[str, ...]]:
    """The checkpoint's file name and the folds that have it: all that are numbered, else "all".

    nnU-Net's own rule (auto_detect_available_folds). Raises ConfigError where there is none.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: is not a folder; give a trained nnU-Net v2 model folder")
    for name in CHECKPOINTS:
        folds = [path.parent.name.removeprefix("fold_") for path in folder.glob(f"fold_*/{name}")]
        numbered = sorted((fold for fold in folds if re.fullmatch(r"\d+", fold)), key=int)
        if numbered or "all" in folds:
            return name, tuple(numbered) or ("all",)
    raise ConfigError(
        f"{folder}: there is no fold_0 … fold_all with a {' or '.join(CHECKPOINTS)}; "
        "give the folder named Trainer__Plans__configuration that nnU-Net training left"
    )


def checkpoint_path(folder: Path, fold: str, checkpoint_name: str) -> Path:
    """Where one fold's checkpoint lies."""
    return folder / f"fold_{fold}" / checkpoint_name


def fingerprint(
    folder: Path,
    checkpoint_name: str,
    folds: Sequence[str],
    orientation: str,
    profile: Profile = Profile.EXACT,
    before: str | None = None,
) -> str:
    """SHA-256 over all that shapes the answer: plans, labels, description, weights, orientation,
    a profile other than exact, and `before`, the fingerprint of a cascade's previous stage.

    What a plain model run exactly gives must never change: the UIDs of its results come from it.
    Raises ConfigError where a file cannot be read.
    """
    digest = hashlib.sha256(f"orientation {orientation}\n".encode())
    if profile is not Profile.EXACT:
        digest.update(f"profile {profile}\n".encode())
    if before is not None:
        digest.update(f"previous_stage {before}\n".encode())
    description = [folder / DESCRIPTION] if (folder / DESCRIPTION).exists() else []
    weights = [checkpoint_path(folder, fold, checkpoint_name) for fold in folds]
    for path in [folder / PLANS, folder / DATASET, *description, *weights]:
        name = path.relative_to(folder).as_posix()
        digest.update(f"{name} {_sha256(path)}\n".encode())
    return digest.hexdigest()


def fingerprint_now(model: Model) -> str:
    """What a loaded Model's files give now: its fingerprint, unless they have changed since."""
    previous = model.previous_stage
    before = fingerprint_now(previous) if previous else None
    parts = model.folder, model.checkpoint_name, model.folds, model.orientation, model.profile
    return fingerprint(*parts, before)


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
