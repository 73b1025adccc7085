"""Regular expressions that end: Python's syntax, matched within a time limit.

The module re has no such limit, and some pairs of pattern and text take it longer than the world.
"""

import re
import warnings
from typing import Final

import regex

# As text to re, as "roughly" to regex: x{e} is no x followed by {e}, but an x with a typing error.
_LONE_BRACE: Final = re.compile(r"(?<!\\)(?:\\\\)*\{(?!\d*,?\d*\})")


def pattern_refusal(pattern: str) -> str | None:
    """Why a regular expression is none, or does not mean the same to everyone; None if it does."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)  # sets in sets
            re.compile(pattern)
        regex.compile(pattern)
    except (re.error, regex.error, FutureWarning, OverflowError, RecursionError) as error:
        return f'"{pattern}" is not a regular expression: {error}'
    if _LONE_BRACE.search(pattern):
        return f'"{pattern}" has a brace that repeats nothing; write \\{{ where a brace is meant'
    return None


def found_in(value: str, pattern: str, seconds: float) -> bool:
    """Whether the pattern fits anywhere in the value. Raises TimeoutError after so many seconds."""
    if seconds <= 0:
        raise TimeoutError
    return regex.search(pattern, value, timeout=seconds) is not None
