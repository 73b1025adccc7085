"""One section of docs/benchmarks.md and the lines of its table."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """What was measured, what it should reach, what it was, and how it was done."""

    what: str
    aim: str
    measured: str
    how: str


@dataclass(frozen=True)
class Comparison:
    """What was measured of us and of stock nnU-Net beside it, and what ours should reach."""

    what: str
    aim: str
    ours: str
    stock: str
    how: str


@dataclass(frozen=True)
class Section:
    """One part's table. notes: what the reader must know about all of its rows."""

    heading: str
    rows: Sequence[Figure] | Sequence[Comparison]
    notes: Sequence[str] = ()
