"""A trained nnU-Net v2 model folder as a Model. Reads no weights and imports no torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from node.core.errors import ConfigError
from node.core.model import Model, Profile
from node.core.volume import NATIVE, parse_orientation
from node.inference.cascade import previous_folder, require_pair, wanted_before
from node.inference.checkpoint import trained_configuration
from node.inference.description import read_description
from node.inference.folder import (
    DATASET,
    DESCRIPTION,
    PLANS,
    checkpoint_path,
    find_checkpoints,
    fingerprint,
    read_json,
)
from node.inference.labels import segments
from node.inference.plans import resolve

_ASSUMED = "RAS"  # how most public training sets are stored
_REORIENTING_READER = "NibabelIOWithReorient"  # turned every training image to RAS


def load_model(
    name: str, folder: Path, orientation: str | None = None, profile: Profile | None = None
) -> Model:
    """The Model in `folder`; `orientation` and `profile` override what model.toml says.

    Of a cascade, `folder` is the second stage's; the first is its `previous_stage`. Raises
    ConfigError naming the file and the key for whatever is missing, broken or cannot be run here.
    """
    return _load(name, folder, orientation, profile, may_follow=True)


def _load(
    name: str, folder: Path, orientation: str | None, profile: Profile | None, *, may_follow: bool
) -> Model:
    """One stage with the one before it, which `may_follow` no other: nnU-Net knows two."""
    checkpoint_name, folds = find_checkpoints(folder)
    plans, dataset = read_json(folder / PLANS), read_json(folder / DATASET)
    description = read_description(folder / DESCRIPTION)
    letters = _checked(orientation, name) or description.orientation or _recorded(plans)
    used = letters or _ASSUMED
    run = profile or description.profile or Profile.EXACT
    configuration = _configuration(folder, checkpoint_name, folds)
    wanted = wanted_before(_settings(plans, configuration, folder / PLANS), folder)
    if wanted and not may_follow:
        raise ConfigError(f"{folder}: follows {wanted} itself; a cascade has two stages")
    previous = _previous_stage(name, folder, wanted, used, run) if wanted else None
    before = previous.fingerprint if previous else None
    mark = fingerprint(folder, checkpoint_name, folds, used, run, before)
    return Model(
        name=name,
        folder=folder,
        title=description.name or str(plans.get("dataset_name", folder.name)),
        version=description.version or mark[:12],
        fingerprint=mark,
        configuration=configuration,
        folds=folds,
        checkpoint_name=checkpoint_name,
        channels=_channels(dataset, folder / DATASET),
        orientation=used,
        orientation_assumed=letters is None,
        accepts=description.input.rules(),
        segments=segments(dataset, folder / DATASET, description.segments),
        profile=run,
        previous_stage=previous,
    )


def _previous_stage(
    name: str, folder: Path, wanted: str, orientation: str, profile: Profile
) -> Model:
    """The first stage of the cascade whose second lies in `folder`. Raises ConfigError."""
    found = previous_folder(folder, wanted)
    first = _load(f"{name}, previous stage", found, orientation, profile, may_follow=False)
    require_pair(first, wanted, folder)
    return first


def _checked(orientation: str | None, name: str) -> str | None:
    if orientation is None or orientation == NATIVE:
        return orientation
    try:
        return parse_orientation(orientation)
    except ValueError as error:
        raise ConfigError(f'model "{name}": orientation: {error}') from error


def _recorded(plans: Mapping[str, Any]) -> str | None:
    """nnU-Net keeps no orientation, but one of its readers allows only RAS."""
    return "RAS" if plans.get("image_reader_writer") == _REORIENTING_READER else None


def _configuration(folder: Path, checkpoint_name: str, folds: tuple[str, ...]) -> str:
    """The trained configuration, the same in all folds."""
    names = {trained_configuration(checkpoint_path(folder, f, checkpoint_name)) for f in folds}
    if len(names) > 1:
        raise ConfigError(f"{folder}: its folds were trained differently: {', '.join(names)}")
    return names.pop()


def _settings(plans: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    try:
        return resolve(plans, name)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _channels(dataset: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    """Channel names in the order the network takes them ("modality" in older datasets)."""
    names = dataset.get("channel_names", dataset.get("modality"))
    numbers = [str(number) for number in range(len(names))] if isinstance(names, dict) else []
    if not isinstance(names, dict) or not names or set(names) != set(numbers):
        raise ConfigError(f'{path}: "channel_names" must name the channels "0", "1", …')
    return tuple(str(names[number]) for number in numbers)
