"""The two stages of a cascade: where the first lies, and whether it is what the second needs."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from node.core.errors import ConfigError
from node.core.model import Model
from node.inference.description import read_description
from node.inference.folder import DATASET, DESCRIPTION, PLANS, read_json

PREVIOUS_STAGE = "previous_stage"  # a key of the plans, and a folder beside them
_SAME = ("channel_names", "modality", "labels", "regions_class_order")  # of dataset.json


def wanted_before(settings: Mapping[str, Any], folder: Path) -> str | None:
    """The configuration whose labels this one is given, or None. Raises ConfigError.

    It becomes part of a folder's name, and plans.json may come from anywhere.
    """
    wanted = settings.get(PREVIOUS_STAGE)
    if wanted is None or (isinstance(wanted, str) and wanted and Path(wanted).name == wanted):
        return wanted
    raise ConfigError(
        f'{folder / PLANS}: "{PREVIOUS_STAGE}" must name a configuration, not {wanted!r}'
    )


def previous_folder(folder: Path, wanted: str) -> Path:
    """The first stage's folder: inside the second's, or beside it under nnU-Net's name.

    nnU-Net calls them Trainer__Plans__configuration. Raises ConfigError saying where to put it.
    """
    inside, named = folder / PREVIOUS_STAGE, folder.resolve()
    trainer_and_plans, separator, _ = named.name.rpartition("__")
    beside = named.with_name(f"{trainer_and_plans}__{wanted}")
    for found in [inside, beside] if separator else [inside]:
        if found.is_dir():
            return found
    raise ConfigError(
        f"{folder}: is the second stage of a cascade, and its first, {wanted}, is missing; put "
        f"that trained model folder at {inside}" + (f" or at {beside}" if separator else "")
    )


def require_pair(first: Model, wanted: str, folder: Path) -> None:
    """Whether `first` is what the second stage in `folder` was trained on. Raises ConfigError."""
    if first.configuration != wanted:
        raise ConfigError(
            f"{first.folder}: was trained as {first.configuration}, but the second stage in "
            f"{folder} needs {wanted}"
        )
    ours, theirs = read_json(first.folder / DATASET), read_json(folder / DATASET)
    for key in _SAME:
        if json.dumps(ours.get(key)) != json.dumps(theirs.get(key)):  # the order counts
            raise ConfigError(
                f'{first.folder / DATASET}: "{key}" is not that of {folder / DATASET}; both '
                "stages of a cascade must come from one dataset"
            )
    said = read_description(first.folder / DESCRIPTION).orientation
    if said not in (None, first.orientation):
        raise ConfigError(
            f'{first.folder / DESCRIPTION}: "orientation" is {said}, but {folder} is run with '
            f"{first.orientation}; both stages saw the same arrays: correct the wrong one"
        )
