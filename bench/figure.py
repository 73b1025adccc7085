"""One line of docs/benchmarks.md."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """What was measured, what it should reach, what it was, and how it was done."""

    what: str
    aim: str
    measured: str
    how: str
