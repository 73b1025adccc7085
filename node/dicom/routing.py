"""Which Routes a closed Series takes, and in words why the others do not want it."""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydicom import Dataset
from pydicom.datadict import keyword_dict, tag_for_keyword
from pydicom.multival import MultiValue

from node.core.errors import ConfigError

Wanted = str | int | float | tuple[str | int | float, ...]


@dataclass(frozen=True)
class Route:
    """Which Series go to which Model and whose Peers get the result.

    when: DICOM keyword → value, several values, or "~" and a regular expression.
    """

    name: str
    model: str
    send_to: tuple[str, ...]
    when: Mapping[str, Wanted]


def check_keywords(routes: Sequence[Route]) -> None:
    """Raises ConfigError for a condition on something that is no DICOM keyword (PS3.6)."""
    for route in routes:
        for keyword in route.when:
            if tag_for_keyword(keyword) is None:
                close = difflib.get_close_matches(keyword, keyword_dict, n=1)
                hint = f'; did you mean "{close[0]}"?' if close else ""
                raise ConfigError(
                    f'route "{route.name}": when: "{keyword}" is not a DICOM keyword{hint}'
                )


def mismatch(route: Route, header: Dataset) -> str | None:
    """The first condition that this header does not fulfil, in words; None where all hold."""
    for keyword, wanted in route.when.items():
        values = _values(header, keyword)
        if not any(_fits(value, wanted) for value in values):
            return f"{keyword} is {_in_words(values)}, not {_wanted_in_words(wanted)}"
    return None


def routing_in_words(routes: Sequence[Route], matching: Sequence[Route], header: Dataset) -> str:
    """Which route matched or why none did, for the eye."""
    if matching:
        return "; ".join(f'route "{route.name}" matched' for route in matching)
    if not routes:
        return "unrouted: there are no routes in the configuration"
    reasons = [f'route "{route.name}": {mismatch(route, header)}' for route in routes]
    return "unrouted: " + "; ".join(reasons)


def _values(header: Dataset, keyword: str) -> list[str]:
    value = header.get(keyword)
    if value is None or value == "":
        return []
    many = value if isinstance(value, MultiValue | list) else [value]
    return [str(one).strip() for one in many]


def _fits(value: str, wanted: Wanted) -> bool:
    if isinstance(wanted, tuple):
        return any(_fits(value, one) for one in wanted)
    if isinstance(wanted, str) and wanted.startswith("~"):
        return re.search(wanted[1:], value) is not None
    if isinstance(wanted, int | float):
        return _number(value) == float(wanted)
    return value == wanted


def _number(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def _in_words(values: Sequence[str]) -> str:
    return " \\ ".join(f'"{value[:64]}"' for value in values) if values else "absent"


def _wanted_in_words(wanted: Wanted) -> str:
    if isinstance(wanted, tuple):
        return "one of " + ", ".join(_wanted_in_words(one) for one in wanted)
    if isinstance(wanted, str) and wanted.startswith("~"):
        return f"like {wanted[1:]}"
    return f'"{wanted}"'
