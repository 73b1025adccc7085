"""Codes guessed from label names, by the table in codes/segments.csv. A guess is no statement.

Only whole names match, after case, signs and the words for left and right are taken off.
"""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from node.core.anatomy import Code

TABLE = Path(__file__).parent / "codes" / "segments.csv"
_LATERALITY = {  # PS3.16 CID 244
    "left": Code("7771000", "SCT", "Left"),
    "right": Code("24028007", "SCT", "Right"),
    "both": Code("51440002", "SCT", "Bilateral"),
}
_SIDES = {"left": "left", "right": "right"}
_LETTERS = {"l": "left", "r": "right"}  # first or last word only
_PAIRED = "paired"


@dataclass(frozen=True)
class Guess:
    """What a label's name suggests: the coded concepts of a Segment (PS3.3 C.8.20.4)."""

    category: Code
    type: Code
    region: Code | None = None
    laterality: Code | None = None


@dataclass(frozen=True)
class Row:
    """One concept of the table with the normalised names it goes by."""

    names: tuple[str, ...]
    names_of_both: tuple[str, ...]
    paired: bool
    category: Code
    type: Code
    region: Code | None
    source: str

    def guess(self, side: str | None) -> Guess:
        return Guess(self.category, self.type, self.region, _LATERALITY[side] if side else None)


def guess(label: str) -> Guess | None:
    """The codes for a label called `label`, or None where the table has no such name."""
    name = normalised(label)
    single, both = _by_name()
    if name in single:  # before the side is taken off: "left atrium" has a code of its own
        return single[name].guess(None)
    if name in both:
        return both[name].guess("both")
    rest, side = _without_side(name)
    row = single.get(rest)
    return row.guess(side) if side and row and row.paired else None


def normalised(label: str) -> str:
    """Lower case words with one space between them: "KidneyLeft", "kidney_left" → "kidney left"."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", label)
    return " ".join(re.findall(r"[^\W_]+", apart.casefold()))


def _without_side(name: str) -> tuple[str, str | None]:
    """The name without its word for a side, and the side; None unless there is exactly one."""
    words = name.split()
    last = len(words) - 1
    found = [
        (at, _SIDES.get(word) or _LETTERS.get(word if at in (0, last) else ""))
        for at, word in enumerate(words)
    ]
    sides = [(at, side) for at, side in found if side]
    if len(sides) != 1:
        return name, None
    at, side = sides[0]
    return " ".join(words[:at] + words[at + 1 :]), side


@cache
def _by_name() -> tuple[dict[str, Row], dict[str, Row]]:
    """The rows by the names of one, and by the names that mean both sides."""
    table = list(rows())
    single = {name: row for row in table for name in row.names}
    return single, {name: row for row in table for name in row.names_of_both}


def rows() -> Iterator[Row]:
    """The table as it stands in the file."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        for cells in csv.DictReader(file):
            yield Row(
                names=tuple(cells["names"].split("|")),
                names_of_both=tuple(filter(None, cells["names_of_both"].split("|"))),
                paired=cells["side"] == _PAIRED,
                category=Code(cells["category"], "SCT", cells["category_meaning"]),
                type=Code(cells["type"], "SCT", cells["type_meaning"]),
                region=_region(cells),
                source=cells["source"],
            )


def _region(cells: dict[str, str]) -> Code | None:
    return Code(cells["region"], "SCT", cells["region_meaning"]) if cells["region"] else None
