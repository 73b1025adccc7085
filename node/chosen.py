"""`segnode predict --channel NAME=SERIES_UID_OR_FOLDER`: which Series fills which channel."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from node.core.errors import Fatal
from node.core.model import Model
from node.core.names import SeriesInstanceUID
from node.core.suggest import did_you_mean
from node.dicom.routing import channel_names
from node.predict import Found, series_in

EXAMPLE = "SERIES_UID_OR_FOLDER"


def by_channel(model: Model, folder: Path, options: Sequence[str]) -> list[Found]:
    """The Series of each channel, in the Model's order, out of `folder` or folders of their own.

    Raises Fatal where they are not one Series for each channel.
    """
    names = channel_names(model)
    if len(names) == 1:
        raise Fatal(f'the model "{model.name}" reads one Series; leave --channel out')
    given = _by_name(model, names, options)
    held = series_in(folder)
    found = {name: _series(name, given[name], folder, held) for name in names}
    _require_different(found)
    return list(found.values())


def require_one_channel(model: Model) -> None:
    """Raises Fatal where --channel is needed to know which Series is which."""
    names = channel_names(model)
    if len(names) > 1:
        raise Fatal(
            f'the model "{model.name}" reads {len(names)} Series; name one for each of its '
            f"channels: {_options(names)}"
        )


def _by_name(model: Model, names: Sequence[str], options: Sequence[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    for option in options:
        name, which = _parted(model, names, option)
        if name in given:
            raise Fatal(f"--channel {name} is given twice: {given[name]} and {which}")
        given[name] = which
    if missing := [name for name in names if name not in given]:
        raise Fatal(f'the model "{model.name}" reads {", ".join(names)}; add {_options(missing)}')
    return given


def _parted(model: Model, names: Sequence[str], option: str) -> tuple[str, str]:
    """Name and Series; a name may hold a "=" itself."""
    for name in sorted(names, key=len, reverse=True):
        if option.startswith(f"{name}=") and (which := option.removeprefix(f"{name}=")):
            return name, which
    name, equals, which = option.partition("=")
    if not equals or not which:
        raise Fatal(f'--channel "{option}": write NAME={EXAMPLE}')
    hint = did_you_mean(name, names)
    raise Fatal(f'--channel "{option}": the model "{model.name}" has no channel "{name}"{hint}')


def _series(
    name: str, which: str, folder: Path, held: Mapping[SeriesInstanceUID, Sequence[Path]]
) -> Found:
    uid = SeriesInstanceUID(which)
    if uid in held:
        return uid, held[uid]
    if not Path(which).is_dir():
        hint = did_you_mean(which, list(held))
        raise Fatal(f'channel {name}: "{which}" is no folder and no Series in {folder}{hint}')
    found = series_in(Path(which))
    if len(found) != 1:
        what = f"{len(found)} Series ({', '.join(sorted(found))})" if found else "no DICOM images"
        raise Fatal(f"channel {name}: {which} holds {what}; it must be one Series")
    return next(iter(found.items()))


def _require_different(found: Mapping[str, Found]) -> None:
    first: dict[SeriesInstanceUID, str] = {}
    for name, (uid, _) in found.items():
        if uid in first:
            raise Fatal(f"channel {first[uid]} and channel {name} are the same Series {uid}")
        first[uid] = name


def _options(names: Sequence[str]) -> str:
    return " ".join(f'--channel "{name}={EXAMPLE}"' for name in names)
