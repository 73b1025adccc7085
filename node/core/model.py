"""A Model as the rest of the node sees it: what it accepts, what it finds, where it lies."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from node.core.anatomy import Segment
from node.core.conditions import Conditions
from node.core.volume import LabelMap, Volume


@dataclass(frozen=True)
class InputRules:
    """What a Model accepts. Empty modalities: any. Spacing and extent bound every axis, mm.

    The extent keeps a whole head from a Model that was trained on crops: it would answer, wrongly.
    resample: tilted and unevenly spaced slices are brought onto a regular grid, not refused.
    select: what every slice must state where a Series holds several volumes: echo, b-value, …
    """

    modalities: tuple[str, ...] = ()
    min_slices: int = 1
    min_spacing_mm: float | None = None
    max_spacing_mm: float | None = None
    max_extent_mm: float | None = None
    resample: bool = False
    select: Conditions = field(default_factory=dict, hash=False)


class Profile(StrEnum):
    """How exactly a Model is run. All but exact change the answer, and say so in the result."""

    EXACT = "exact"  # what nnU-Net does: mirrors, tiles that overlap by half
    FAST = "fast"  # no mirrors
    FASTEST = "fastest"  # no mirrors, tiles 0.8 of a patch apart, tiles wholly in air skipped


TILE_STEP = {Profile.EXACT: 0.5, Profile.FAST: 0.5, Profile.FASTEST: 0.8}  # of the patch


@dataclass(frozen=True)
class Model:
    """One nnU-Net v2 trained model folder with its model.toml.

    orientation: NIfTI letters of the training arrays, or "native". orientation_assumed: nobody
    said so, and nnU-Net does not record it. fingerprint: SHA-256 over all that shapes the answer.
    previous_stage: of a cascade, the Model whose labels this one is given beside the image.
    """

    name: str
    folder: Path
    title: str
    version: str
    fingerprint: str
    configuration: str
    folds: tuple[str, ...]
    checkpoint_name: str
    channels: tuple[str, ...]
    orientation: str
    orientation_assumed: bool
    accepts: InputRules
    segments: tuple[Segment, ...]
    profile: Profile = Profile.EXACT
    previous_stage: "Model | None" = None


@dataclass(frozen=True)
class Progress:
    """How far a prediction is. done: 0 to 1. note: what a person should know, e.g. a fallback."""

    done: float
    note: str | None = None


Tell = Callable[[Progress], None]  # raises to cancel the prediction


def tell_nobody(progress: Progress) -> None:
    """For those who do not watch."""


class Segmenter(Protocol):
    """The one seam between DICOM and inference."""

    def segment(
        self,
        volumes: Sequence[Volume],
        tell: Tell = tell_nobody,
        probabilities: bool = False,
    ) -> LabelMap:
        """Labels for one Volume per channel, all on one grid; the LabelMap lies on that grid.

        With `probabilities` it has those of each Segment, and the same labels as without.
        What `tell` raises ends the prediction and is raised.
        """
        ...


class Engine(Protocol):
    """Places work on Segmenters."""

    def segment(
        self,
        volumes: Sequence[Volume],
        model: Model,
        tell: Tell = tell_nobody,
        probabilities: bool = False,
    ) -> LabelMap:
        """As Segmenter.segment, by the Model's Segmenter. Raises Temporary, Fatal."""
        ...
