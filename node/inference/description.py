"""model.toml: what nnU-Net does not record about a model. Every key is optional, none unknown."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, model_validator

from node.core.anatomy import Code
from node.core.config import read_toml, refusal
from node.core.model import InputRules, Profile
from node.core.sections import Condition, Orientation, Section

# PS3.5 6.2: LO holds 64 characters, SH 16, neither a backslash.
Long = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\\\x00-\x1f]*$")]
Short = Annotated[str, Field(min_length=1, max_length=16, pattern=r"^[^\\\x00-\x1f]*$")]


class CodeSection(Section):
    value: Short
    scheme: Short
    meaning: Long

    def code(self) -> Code:
        return Code(self.value, self.scheme, self.meaning)


class SegmentSection(Section):
    label: Long | None = None
    category: CodeSection
    type: CodeSection
    region: CodeSection | None = None
    laterality: CodeSection | None = None
    guessed: bool = False  # from the label's name; a person who confirms it takes the line out
    colour: str | None = Field(None, pattern=r"^#[0-9A-Fa-f]{6}$")


class SpacingSection(Section):
    min: float | None = Field(None, gt=0)
    max: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _in_order(self) -> "SpacingSection":
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is greater than max {self.max}")
        return self


class InputSection(Section):
    modality: tuple[Short, ...] = ()
    min_slices: int = Field(1, ge=1)
    spacing_mm: SpacingSection = SpacingSection()
    max_extent_mm: float | None = Field(None, gt=0)
    resample: bool = False
    select: dict[str, Condition] = Field({})

    def rules(self) -> InputRules:
        return InputRules(
            modalities=self.modality,
            min_slices=self.min_slices,
            min_spacing_mm=self.spacing_mm.min,
            max_spacing_mm=self.spacing_mm.max,
            max_extent_mm=self.max_extent_mm,
            resample=self.resample,
            select=self.select,
        )


class Description(Section):
    """model.toml as one typed tree. `segments` goes by the labels' names in dataset.json."""

    name: Long | None = None
    version: Long | None = None
    orientation: Orientation | None = None
    profile: Profile | None = None
    input: InputSection = InputSection()
    segments: dict[str, SegmentSection] = Field({})


def read_description(path: Path) -> Description:
    """The model.toml at `path`, or an empty one. Raises ConfigError naming the file and the key."""
    if not path.exists():
        return Description()
    tree = read_toml(path)
    try:
        return Description(**tree)
    except ValidationError as error:
        raise refusal(path, error, Description) from error
