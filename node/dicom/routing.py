"""Which Routes a closed Series takes, and in words why the others do not want it."""

import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from pydicom import Dataset
from pydicom.datadict import dictionary_VR, keyword_dict, tag_for_keyword
from pydicom.multival import MultiValue

from node.core.conditions import PATTERN, Conditions, Range, Scalar, Wanted
from node.core.errors import ConfigError
from node.core.model import Model
from node.core.suggest import did_you_mean
from node.core.verdict import Verdict

# Longer values fit no regular expression: what a sender writes must not keep the node busy.
LONGEST_MATCHED: Final = 256
LONGEST_SHOWN: Final = 64
VALUES_SHOWN: Final = 6
# PS3.5 6.2: of these a value is a number; of the others that are not text it is nothing to compare.
_NUMBERS: Final = frozenset({"DS", "IS", "FD", "FL", "SL", "SS", "SV", "UL", "US", "UV"})
_NOT_COMPARED: Final = frozenset({"SQ", "UN", "OB", "OD", "OF", "OL", "OV", "OW"})
_IDENTITY: Final = frozenset(
    {"PatientID", "OtherPatientIDs", "PatientBirthDate", "PatientAddress"}
    | {"PatientTelephoneNumbers", "AccessionNumber"}
)
WHEN: Final = ""  # the one channel of a Route that has `when`


@dataclass(frozen=True)
class Route:
    """Which Series go to which Model and whose Peers get the result.

    when: what a Series must fulfil. channels: the same for each channel of a Model that reads
    several, in the Model's order (see `with_models`); their Series come within wait_seconds of
    each other. Of two due Jobs the one of higher priority goes first. least_verdict: how sure it
    must be that the Series is whole; settle_seconds and quiet_seconds replace those of [closing].
    """

    name: str
    model: str
    send_to: tuple[str, ...]
    when: Conditions = field(default_factory=dict)
    channels: Mapping[str, Conditions] = field(default_factory=dict)
    wait_seconds: float = 600.0
    priority: int = 0
    least_verdict: Verdict = Verdict.CONSISTENT
    settle_seconds: float | None = None
    quiet_seconds: float | None = None

    @property
    def conditions(self) -> Mapping[str, Conditions]:
        """By channel; a Route with `when` has one, called WHEN."""
        return self.channels or {WHEN: self.when}


@dataclass(frozen=True)
class Failed:
    """A condition that a Series does not fulfil, for the eye."""

    keyword: str
    found: str
    wanted: str

    def __str__(self) -> str:
        return f"{self.keyword} is {self.found}, not {self.wanted}"


@dataclass(frozen=True)
class Fit:
    """What one Route makes of one Series: by channel, the conditions that do not hold."""

    route: Route
    failed: Mapping[str, Sequence[Failed]]

    @property
    def channels(self) -> tuple[int, ...]:
        """The numbers of the channels that the Series fits."""
        return tuple(n for n, failed in enumerate(self.failed.values()) if not failed)

    @property
    def matches(self) -> bool:
        return bool(self.channels)

    def __str__(self) -> str:
        if self.matches:
            names = [name for name, failed in self.failed.items() if name and not failed]
            return f'route "{self.route.name}" matched' + "".join(f", channel {n}" for n in names)
        reasons = [f"{name}: {found[0]}" for name, found in self.failed.items()]
        return f'route "{self.route.name}": ' + "; ".join(r.removeprefix(": ") for r in reasons)


def fit(route: Route, header: Dataset) -> Fit:
    """Holds one Route's conditions against the header of a Series; never raises."""
    return Fit(
        route,
        {
            name: [f for f in (_failed(header, *one) for one in conditions.items()) if f]
            for name, conditions in route.conditions.items()
        },
    )


def routing_in_words(fits: Sequence[Fit]) -> str:
    """Which Routes matched or why none did, for the eye."""
    if not fits:
        return "unrouted: there are no routes in the configuration"
    if matching := [one for one in fits if one.matches]:
        return "; ".join(str(one) for one in matching)
    return "unrouted: " + "; ".join(str(one) for one in fits)


def with_models(routes: Iterable[Route], models: Mapping[str, Model]) -> list[Route]:
    """The Routes with their channels in the order of their Models'.

    Raises ConfigError where the channels are not the Model's, or a condition can never hold.
    """
    checked = []
    for route in routes:
        check_conditions(route)
        names = channel_names(models[route.model])
        _require_channels(route, names)
        ordered = {name: route.channels[name] for name in names} if route.channels else {}
        checked.append(replace(route, channels=ordered))
    return checked


def channel_names(model: Model) -> tuple[str, ...]:
    """What a Route calls the channels of a Model: their names, with their numbers if those repeat.

    dataset.json may call every channel "MRI".
    """
    if len(set(model.channels)) == len(model.channels):
        return model.channels
    return tuple(f"{name} {number}" for number, name in enumerate(model.channels))


def check_conditions(route: Route) -> None:
    """Raises ConfigError for a condition on what is no DICOM keyword (PS3.6), or cannot hold."""
    for channel, conditions in route.conditions.items():
        table = f"channels.{channel}" if channel else "when"
        for keyword, wanted in conditions.items():
            if sentence := _refusal(keyword, wanted):
                raise ConfigError(f'route "{route.name}": {table}: {sentence}')


def _refusal(keyword: str, wanted: Wanted) -> str | None:
    tag = tag_for_keyword(keyword)
    if tag is None:
        close = difflib.get_close_matches(keyword, keyword_dict, n=1)
        hint = f'; did you mean "{close[0]}"?' if close else ""
        return f'"{keyword}" is not a DICOM keyword{hint}'
    kinds = set(dictionary_VR(tag).split(" or "))
    if kinds <= _NOT_COMPARED:
        return f'"{keyword}" ({", ".join(sorted(kinds))}) has no value to compare with'
    if isinstance(wanted, Range) and not kinds & _NUMBERS:
        return (
            f'"{keyword}" holds text ({", ".join(sorted(kinds))}), not numbers; a range cannot '
            "hold: name a value, a list of values, or a regular expression"
        )
    return None


def _require_channels(route: Route, names: Sequence[str]) -> None:
    where = f'route "{route.name}"'
    if len(names) == 1 and route.channels:
        raise ConfigError(
            f'{where}: channels: the model "{route.model}" reads one Series; '
            "write its conditions as when = { … }"
        )
    if len(names) > 1 and not route.channels:
        tables = ", ".join(f"channels.{_toml_key(name)} = {{ … }}" for name in names)
        raise ConfigError(
            f'{where}: the model "{route.model}" reads {len(names)} Series; '
            f"name one condition per channel instead of when: {tables}"
        )
    for name in route.channels:
        if name not in names:
            hint = did_you_mean(name, names)
            raise ConfigError(
                f'{where}: channels: the model "{route.model}" has no channel "{name}"{hint}'
            )
    for name in names if len(names) > 1 else ():
        if name not in route.channels:
            raise ConfigError(
                f'{where}: channels.{_toml_key(name)} is missing: the model "{route.model}" '
                f"reads {', '.join(names)}"
            )


def _toml_key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else f'"{name}"'


def _failed(header: Dataset, keyword: str, wanted: Wanted) -> Failed | None:
    """None where the condition holds; any of several values may fulfil it."""
    try:
        values = _values(header, keyword)
    except Exception as error:  # a sender's odd value: pydicom raises almost anything
        return Failed(keyword, f"unreadable ({type(error).__name__})", _wanted_in_words(wanted))
    if any(_fits(value, wanted, keyword) for value in values):
        return None
    return Failed(keyword, _found_in_words(keyword, values, wanted), _wanted_in_words(wanted))


def _values(header: Dataset, keyword: str) -> list[str]:
    value = header.get(keyword)
    if value is None or value == "":
        return []
    many = value if isinstance(value, MultiValue | list) else [value]
    return [str(one).strip(" \0") for one in many]


def _fits(value: str, wanted: Wanted, keyword: str) -> bool:
    if isinstance(wanted, tuple):
        return any(_fits(value, one, keyword) for one in wanted)
    if isinstance(wanted, Range):
        number = _number(value)
        return number is not None and wanted.holds(number)
    if isinstance(wanted, int | float):
        return _number(value) == float(wanted)
    if wanted.startswith(PATTERN):
        short = len(value) <= LONGEST_MATCHED
        return short and re.search(wanted.removeprefix(PATTERN), value) is not None
    return value == wanted or (_holds_numbers(keyword) and _same_number(value, wanted))


def _holds_numbers(keyword: str) -> bool:
    tag = tag_for_keyword(keyword)
    return tag is not None and bool(set(dictionary_VR(tag).split(" or ")) & _NUMBERS)


def _same_number(one: str, other: str) -> bool:
    number = _number(one)
    return number is not None and number == _number(other)


def _number(value: str) -> float | None:
    """A DS or IS as PS3.5 6.2 writes it; what Python calls a number besides is none."""
    if len(value) > LONGEST_SHOWN or "_" in value:
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _found_in_words(keyword: str, values: Sequence[str], wanted: Wanted) -> str:
    if not values:
        return "absent"
    if keyword in _IDENTITY or dictionary_VR(keyword) == "PN":
        return "another (not shown: it tells who the patient is)"
    shown = [f'"{value[:LONGEST_SHOWN]}"' for value in values[:VALUES_SHOWN]]
    if len(values) > VALUES_SHOWN:
        shown.append(f"{len(values) - VALUES_SHOWN} more")
    too_long = any(len(value) > LONGEST_MATCHED for value in values) and _has_pattern(wanted)
    note = f" (longer than the {LONGEST_MATCHED} characters that are matched)" if too_long else ""
    return " \\ ".join(shown) + note


def _has_pattern(wanted: Wanted) -> bool:
    many = wanted if isinstance(wanted, tuple) else (wanted,)
    return any(isinstance(one, str) and one.startswith(PATTERN) for one in many)


def _wanted_in_words(wanted: Wanted) -> str:
    if isinstance(wanted, tuple):
        return "one of " + ", ".join(_wanted_in_words(one) for one in wanted)
    if isinstance(wanted, Range):
        return _range_in_words(wanted)
    return _scalar_in_words(wanted)


def _scalar_in_words(wanted: Scalar) -> str:
    if isinstance(wanted, str) and wanted.startswith(PATTERN):
        return f"like {wanted.removeprefix(PATTERN)}"
    return f'"{wanted}"'


def _range_in_words(wanted: Range) -> str:
    if wanted.least is None:
        return f"at most {wanted.most:g}"
    if wanted.most is None:
        return f"at least {wanted.least:g}"
    return f"between {wanted.least:g} and {wanted.most:g}"
