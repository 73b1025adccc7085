"""Whether the elements of a header are what a Route wants, and in words what they are instead."""

import difflib
import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pydicom import Dataset
from pydicom.datadict import dictionary_VR, keyword_dict, tag_for_keyword
from pydicom.multival import MultiValue

from node.core.conditions import PATTERN, Absent, Conditions, Range, Scalar, Wanted
from node.core.text import clean
from node.dicom.patterns import found_in, pattern_refusal

# Longer values fit no regular expression: what a sender writes must not keep the node busy.
LONGEST_MATCHED: Final = 256
SECONDS: Final = 1.0  # for all values of a condition; what an administrator writes must not, either
LONGEST_SHOWN: Final = 64
VALUES_SHOWN: Final = 6
# PS3.5 6.2: of these a value is a number; of the others that are not text it is nothing to compare.
_NUMBERS: Final = frozenset({"DS", "IS", "FD", "FL", "SL", "SS", "SV", "UL", "US", "UV"})
_NUMBER: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)  # DS, IS
Header = Dataset | Mapping[str, list[str]]  # by keyword
_NOT_COMPARED: Final = frozenset({"SQ", "UN", "OB", "OD", "OF", "OL", "OV", "OW"})
_IDENTITY: Final = frozenset(
    {"PatientID", "OtherPatientIDs", "PatientBirthDate", "PatientAddress"}
    | {"PatientTelephoneNumbers", "AccessionNumber"}
)


@dataclass(frozen=True)
class Failed:
    """A condition that a Series does not fulfil, for the eye."""

    keyword: str
    found: str
    wanted: str

    def __str__(self) -> str:
        return f"{self.keyword} is {self.found}, not {self.wanted}"


def failed_conditions(header: Header, conditions: Conditions) -> list[Failed]:
    """Those that do not hold; never raises."""
    found = (_failed(header, keyword, wanted) for keyword, wanted in conditions.items())
    return [one for one in found if one is not None]


def refusal(keyword: str, wanted: Wanted) -> str | None:
    """Why no Series can ever fulfil this condition; None where one can."""
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
    return next(filter(None, map(pattern_refusal, _patterns(wanted))), None)


def _failed(header: Header, keyword: str, wanted: Wanted) -> Failed | None:
    """None where the condition holds; any of several values may fulfil it."""
    try:
        values = _values(header, keyword)
    except Exception as error:  # a sender's odd value: pydicom raises almost anything
        return Failed(keyword, f"unreadable ({type(error).__name__})", _wanted_in_words(wanted))
    if isinstance(wanted, Absent) and not any(values):
        return None
    until, note = time.thread_time() + SECONDS, ""
    try:
        if any(_fits(value, wanted, keyword, until) for value in values):
            return None
    except TimeoutError:
        note = f" (not matched within {SECONDS:g} s: make the regular expression simpler)"
    found = _found_in_words(keyword, values, wanted) + note
    return Failed(keyword, found, _wanted_in_words(wanted))


def _values(header: Header, keyword: str) -> list[str]:
    value = header.get(keyword)
    if value is None or value == "":
        return []
    many = value if isinstance(value, MultiValue | list) else [value]
    return [str(one).strip(" \0") for one in many]


def _fits(value: str, wanted: Wanted, keyword: str, until: float) -> bool:
    """Raises TimeoutError at `until` by time.thread_time(): a busy machine is no slow pattern."""
    if isinstance(wanted, tuple):
        return any(_fits(value, one, keyword, until) for one in wanted)
    if isinstance(wanted, Absent):
        return False
    if isinstance(wanted, Range):
        number = _number(value)
        return number is not None and wanted.holds(number)
    if isinstance(wanted, int | float):
        return _number(value) == float(wanted)
    if wanted.startswith(PATTERN):
        pattern, seconds = wanted.removeprefix(PATTERN), until - time.thread_time()
        return len(value) <= LONGEST_MATCHED and found_in(value, pattern, seconds)
    return value == wanted or (_holds_numbers(keyword) and _same_number(value, wanted))


def _holds_numbers(keyword: str) -> bool:
    tag = tag_for_keyword(keyword)
    return tag is not None and bool(set(dictionary_VR(tag).split(" or ")) & _NUMBERS)


def _same_number(one: str, other: str) -> bool:
    number = _number(one)
    return number is not None and number == _number(other)


def _number(value: str) -> float | None:
    if len(value) > LONGEST_SHOWN or not _NUMBER.fullmatch(value):
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def _found_in_words(keyword: str, values: Sequence[str], wanted: Wanted) -> str:
    if not values:
        return "absent"
    if keyword in _IDENTITY or dictionary_VR(keyword) == "PN":
        return "another (not shown: it tells who the patient is)"
    shown = [f'"{clean(value[:LONGEST_SHOWN])}"' for value in values[:VALUES_SHOWN]]
    if len(values) > VALUES_SHOWN:
        shown.append(f"{len(values) - VALUES_SHOWN} more")
    too_long = any(len(value) > LONGEST_MATCHED for value in values) and _patterns(wanted)
    note = f" (longer than the {LONGEST_MATCHED} characters that are matched)" if too_long else ""
    return " \\ ".join(shown) + note


def _patterns(wanted: Wanted) -> list[str]:
    many = wanted if isinstance(wanted, tuple) else (wanted,)
    return [
        one.removeprefix(PATTERN)
        for one in many
        if isinstance(one, str) and one.startswith(PATTERN)
    ]


def _wanted_in_words(wanted: Wanted) -> str:
    if isinstance(wanted, tuple):
        return "one of " + ", ".join(_wanted_in_words(one) for one in wanted)
    if isinstance(wanted, Range):
        return _range_in_words(wanted)
    if isinstance(wanted, Absent):
        return "absent"
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
