"""What a label means: names, SNOMED codes, colours."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Code:
    """A coded concept (PS3.3 8.8): value, scheme designator (SCT), meaning."""

    value: str
    scheme: str
    meaning: str


TISSUE = Code("85756007", "SCT", "Tissue")  # PS3.16 CID 7150, for labels nobody coded


@dataclass(frozen=True)
class Segment:
    """One label of a Model: what it is called, what it is, how it is shown.

    number: the value in the LabelMap. colour: sRGB, 0–255 each. guessed: the codes come from the
    label's name, and nobody has confirmed them yet. covered: a region of which the LabelMap has
    only the rest that other regions leave; its probability is that of the whole.
    """

    number: int
    label: str
    category: Code
    type: Code
    colour: tuple[int, int, int]
    region: Code | None = None
    laterality: Code | None = None
    guessed: bool = False
    covered: bool = False
