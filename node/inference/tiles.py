"""The sliding window: where the tiles lie, how they are mirrored, weighted and added up.

Same tiles, weights and rounding as nnunetv2 inference/sliding_window_prediction.py and
predict_from_raw_data.py, in the same order, so that sums in half precision come out the same.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, product

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

Tile = tuple[slice, slice, slice]
Padding = tuple[slice, slice, slice]
_SIGMA = 1 / 8  # of the patch
_PEAK = 10.0  # half precision keeps more of large weights


def pad(image: torch.Tensor, patch: Sequence[int]) -> tuple[torch.Tensor, Padding]:
    """Zeros around (channel, slice, row, column) up to the patch, and where the image lies in it.

    A patch of two sizes says nothing about slices.
    """
    sizes = [*image.shape[1 : 4 - len(patch)], *patch]
    missing = [max(0, size - have) for size, have in zip(sizes, image.shape[1:], strict=True)]
    before = [gap // 2 for gap in missing]
    inside = [slice(b, b + n) for b, n in zip(before, image.shape[1:], strict=True)]
    if any(missing):
        sides = [(b, gap - b) for b, gap in zip(before, missing, strict=True)]
        image = torch.nn.functional.pad(image, [n for pair in reversed(sides) for n in pair])
    return image, (inside[0], inside[1], inside[2])


def tiles(shape: Sequence[int], patch: Sequence[int], step: float) -> list[Tile]:
    """Every tile of a grid that is no smaller than the patch; with a 2D patch, slice by slice."""
    sizes = [1] * (3 - len(patch)) + list(patch)
    starts = [
        list(range(have)) if axis < 3 - len(patch) else _starts(have, size, step)
        for axis, (have, size) in enumerate(zip(shape, sizes, strict=True))
    ]
    return [
        (slice(z, z + sizes[0]), slice(y, y + sizes[1]), slice(x, x + sizes[2]))
        for z, y, x in product(*starts)
    ]


def _starts(length: int, size: int, step: float) -> list[int]:
    """At most size × step apart, evenly, rounded half to even."""
    count = math.ceil((length - size) / (size * step)) + 1
    apart = (length - size) / (count - 1) if count > 1 else 0.0
    return [int(np.round(apart * number)) for number in range(count)]


def mirrors(axes: Sequence[int] | None) -> list[tuple[int, ...]]:
    """Every combination of the spatial axes (from 0), none first, as dimensions of (head, …)."""
    dimensions = [axis + 1 for axis in axes or ()]
    return [c for n in range(len(dimensions) + 1) for c in combinations(dimensions, n)]


@lru_cache(maxsize=8)
def gaussian(patch: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """The weight of a tile's voxels, half precision, never 0."""
    impulse = np.zeros(patch)
    impulse[tuple(size // 2 for size in patch)] = 1
    bell = gaussian_filter(impulse, [size * _SIGMA for size in patch], mode="constant")
    weights = torch.from_numpy(bell / (bell.max() / _PEAK)).to(device, torch.half)
    weights[weights == 0] = weights[weights != 0].min()
    return weights


@dataclass(frozen=True, eq=False)
class Sum:
    """Weighted predictions of the tiles so far: half precision, as nnU-Net adds them up."""

    logits: torch.Tensor  # (head, slice, row, column)
    weights: torch.Tensor  # (slice, row, column)

    @staticmethod
    def empty(heads: int, shape: Sequence[int], device: torch.device) -> "Sum":
        return Sum(
            torch.zeros((heads, *shape), dtype=torch.half, device=device),
            torch.zeros(tuple(shape), dtype=torch.half, device=device),
        )

    def add(self, tile: Tile, prediction: torch.Tensor, weight: torch.Tensor) -> None:
        """prediction: (head, *patch), overwritten. A prediction of half size adds in half size."""
        prediction *= weight
        self.logits[:, *tile] += prediction.reshape(self.logits[:, *tile].shape)
        self.weights[tile] += weight.reshape(self.weights[tile].shape)

    def mean(self, background: Sequence[float] | None = None) -> torch.Tensor:
        """The weighted mean, in place. background: what each head says where no tile was."""
        if background is not None:
            nowhere = self.weights == 0
            self.weights[nowhere] = 1
            for logits, value in zip(self.logits, background, strict=True):
                logits[nowhere] = value
        torch.div(self.logits, self.weights, out=self.logits)
        return self.logits


def not_air(image: torch.Tensor, places: Sequence[Tile], air: float | None) -> Iterator[Tile]:
    """The tiles that show anything; image: (channel, slice, row, column)."""
    for tile in places:
        if air is None or bool((image[0][tile] > air).any()):
            yield tile
