"""What a Route wants of one DICOM element, as the configuration writes it."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from node.core.suggest import did_you_mean

Scalar = str | int | float
PATTERN = "~"  # a text that begins with it is a regular expression


@dataclass(frozen=True)
class Range:
    """Numbers from `least` to `most`, both included; None leaves that side open."""

    least: float | None
    most: float | None

    def holds(self, number: float) -> bool:
        above = self.least is None or number >= self.least
        return above and (self.most is None or number <= self.most)


@dataclass(frozen=True)
class Absent:
    """The element is missing, or has no value."""


Wanted = Scalar | tuple[Scalar, ...] | Range | Absent
Conditions = Mapping[str, Wanted]  # by DICOM keyword; all must hold


def wanted_from(value: object) -> Wanted:
    """A value, a list of values, "~" and a regular expression, { min = …, max = … }, or
    { absent = true }.

    Raises ValueError with a sentence for anything else.
    """
    if isinstance(value, dict):
        return _absent(value) if "absent" in value else _range(value)
    if isinstance(value, list | tuple):
        if not value:
            raise ValueError("the list is empty: no Series could fit it")
        return tuple(_scalar(one) for one in value)
    if isinstance(value, Range | Absent):
        return value
    return _scalar(value)


def _scalar(value: object) -> Scalar:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(
            "a condition is a text, a number, a list of them, a text that begins with ~ (a regular "
            "expression), a range as { min = 0.5, max = 2.0 }, or { absent = true }"
        )
    if isinstance(value, str) and value.startswith(PATTERN):
        _require_pattern(value.removeprefix(PATTERN))
    return value


def _require_pattern(pattern: str) -> None:
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f'"{pattern}" is not a regular expression: {error}') from error


def _absent(value: dict[object, object]) -> Absent:
    if value != {"absent": True} or value["absent"] is not True:
        raise ValueError(
            "what must be absent is written { absent = true }, alone; for what must be there write "
            'a regular expression, "~."'
        )
    return Absent()


def _range(value: dict[object, object]) -> Range:
    for key in value:
        if key not in ("min", "max"):
            hint = did_you_mean(str(key), ["absent", "max", "min"])
            raise ValueError(f'a condition has no "{key}"{hint}')
    least, most = _bound(value, "min"), _bound(value, "max")
    if least is None and most is None:
        raise ValueError("the range is empty; write { min = 0.5, max = 2.0 }, or one of the two")
    if least is not None and most is not None and least > most:
        raise ValueError(f"the range is empty: min = {least:g} is more than max = {most:g}")
    return Range(least, most)


def _bound(value: dict[object, object], key: str) -> float | None:
    bound = value.get(key)
    if bound is None:
        return None
    if isinstance(bound, bool) or not isinstance(bound, int | float) or not math.isfinite(bound):
        raise ValueError(f"{key} is {bound!r}, which is not a number")
    return float(bound)
