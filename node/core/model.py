"""A Model as the rest of the node sees it: what it accepts, what it finds, where it lies."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from node.core.anatomy import Segment
from node.core.volume import LabelMap, Volume


@dataclass(frozen=True)
class InputRules:
    """What a Model accepts. Empty modalities: any. Spacing and extent bound every axis, mm.

    The extent keeps a whole head from a Model that was trained on crops: it would answer, wrongly.
    """

    modalities: tuple[str, ...] = ()
    min_slices: int = 1
    min_spacing_mm: float | None = None
    max_spacing_mm: float | None = None
    max_extent_mm: float | None = None


@dataclass(frozen=True)
class Model:
    """One nnU-Net v2 trained model folder with its model.toml.

    orientation: NIfTI letters of the training arrays, or "native". orientation_assumed: nobody
    said so, and nnU-Net does not record it. fingerprint: SHA-256 over all that shapes the answer.
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


class Segmenter(Protocol):
    """The one seam between DICOM and inference."""

    def segment(self, volumes: Sequence[Volume]) -> LabelMap:
        """Labels for one Volume per channel, all on one grid; the LabelMap lies on that grid."""
        ...


class Engine(Protocol):
    """Places work on Segmenters."""

    def segment(self, volumes: Sequence[Volume], model: Model) -> LabelMap:
        """As Segmenter.segment, by the Model's Segmenter. Raises Temporary, Fatal."""
        ...
