"""Which Routes a closed Series takes, and in words why the others do not want it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from pydicom import Dataset

from node.core.conditions import Conditions
from node.core.errors import ConfigError
from node.core.model import Model
from node.core.suggest import did_you_mean
from node.core.verdict import Verdict
from node.dicom.matching import Failed, failed_conditions, refusal
from node.dicom.selection import check_select

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
            name: failed_conditions(header, conditions)
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
        check_select(models[route.model])
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
            if sentence := refusal(keyword, wanted):
                raise ConfigError(f'route "{route.name}": {table}: {sentence}')


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
