"""nnU-Net's resampling as one small linear operator per axis, computed once per pair of sizes.

skimage.transform.resize and torch.nn.functional.interpolate are separable and linear: an axis
resampled as the identity is the whole truth about them. Sources: nnunetv2
preprocessing/resampling/default_resampling.py and resample_torch.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from node.inference.plans import SPLINE, TRILINEAR, UNCHANGED, Rule

Shape = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Taps:
    """Two neighbours per output: (1 − weight)·lower + weight·upper. All of length n_out."""

    lower: NDArray[np.int64]
    upper: NDArray[np.int64]
    weight: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Matrix:
    """Every output from every input. values: float32, (n_out, n_in)."""

    values: torch.Tensor


Operator = Taps | Matrix | None  # None leaves the axis as it is


@dataclass(frozen=True, eq=False)
class Resampling:
    """A grid of `old_shape` on one of `new_shape`, one operator per axis (slice, row, column).

    clip: to the range of the whole input, as skimage does, of each slice along that axis (0, 1
    or 2), or not at all.
    """

    old_shape: Shape
    new_shape: Shape
    operators: tuple[Operator, Operator, Operator]
    clip: str | int | None

    @property
    def is_local(self) -> bool:
        """Whether each output lies between two neighbours along every axis."""
        return not any(isinstance(operator, Matrix) for operator in self.operators)

    def apply(self, image: torch.Tensor) -> torch.Tensor:
        """float32 (slice, row, column) of old_shape → new_shape."""
        if self.old_shape == self.new_shape:
            return image
        if self.clip is None or self.clip == "volume":
            limits = image.aminmax() if self.clip else None
            for axis in self._cheapest_first():
                image = apply_along(self.operators[axis], image, axis)
            return image if limits is None else image.clamp_(limits.min, limits.max)
        return self._apply_slice_by_slice(image, int(self.clip))

    def _apply_slice_by_slice(self, image: torch.Tensor, across: int) -> torch.Tensor:
        in_plane = tuple(axis for axis in range(3) if axis != across)
        low, high = image.amin(in_plane, keepdim=True), image.amax(in_plane, keepdim=True)
        for axis in self._cheapest_first():
            if axis != across:
                image = apply_along(self.operators[axis], image, axis)
        return apply_along(self.operators[across], image.clamp(low, high), across)

    def _cheapest_first(self) -> list[int]:
        return sorted(range(3), key=lambda axis: self.new_shape[axis] / self.old_shape[axis])


def apply_along(operator: Operator, image: torch.Tensor, axis: int) -> torch.Tensor:
    """One operator along one of the last three axes; image: (…, slice, row, column) float32."""
    if operator is None:
        return image
    axis -= 3
    if isinstance(operator, Taps):
        lower = torch.from_numpy(operator.lower).to(image.device)
        if not operator.weight.any():
            return image.index_select(axis, lower)
        upper = torch.from_numpy(operator.upper).to(image.device)
        weight = torch.from_numpy(operator.weight).to(image.device)
        weight = weight.reshape(-1, *[1] * (-1 - axis))
        return torch.lerp(image.index_select(axis, lower), image.index_select(axis, upper), weight)
    values = operator.values.to(image.device)
    if axis == -1:
        return image @ values.T
    if axis == -2:
        return values @ image
    rows = image.flatten(-2)
    return (values @ rows).reshape(*image.shape[:-3], -1, *image.shape[-2:])


def resampling(
    rule: Rule,
    old_shape: Sequence[int],
    new_shape: Sequence[int],
    old_spacing: Sequence[float],
    new_spacing: Sequence[float],
) -> Resampling:
    """What `rule` does between two grids. Shapes and spacings (mm) are in one axis order."""
    old, new = _shape(old_shape), _shape(new_shape)
    if old == new or rule.function == UNCHANGED:
        return Resampling(old, old, (None, None, None), None)
    across = separate_axis(rule, old_spacing, new_spacing)
    operators = [
        _nearest(rule, before, after) if axis == across else _in_plane(rule, before, after)
        for axis, (before, after) in enumerate(zip(old, new, strict=True))
    ]
    overshoots = rule.function == SPLINE and rule.order > 1
    clip = ("volume" if across is None else across) if overshoots else None
    return Resampling(old, new, (operators[0], operators[1], operators[2]), clip)


def separate_axis(
    rule: Rule, old_spacing: Sequence[float], new_spacing: Sequence[float]
) -> int | None:
    """The axis that is resampled on its own, by nearest neighbour: the coarse one of a thick grid.

    determine_do_sep_z_and_axis in default_resampling.py.
    """
    if rule.force_separate_z is not None:
        return _coarsest(old_spacing) if rule.force_separate_z else None
    for spacing in (old_spacing, new_spacing):
        if max(spacing) / min(spacing) > rule.anisotropy_threshold:
            return _coarsest(spacing)
    return None


def _coarsest(spacing: Sequence[float]) -> int | None:
    """The one axis with the largest spacing; None where two share it."""
    axes = [axis for axis, mm in enumerate(spacing) if max(spacing) / mm == 1]
    return axes[0] if len(axes) == 1 else None


def new_shape(
    shape: Sequence[int], spacing_mm: Sequence[float], target_mm: Sequence[float]
) -> Shape:
    """compute_new_shape in default_resampling.py; Python's round, half to even."""
    return _shape(
        [
            round(mm / target * size)
            for mm, target, size in zip(spacing_mm, target_mm, shape, strict=True)
        ]
    )


def _shape(values: Sequence[int]) -> Shape:
    first, second, third = (int(value) for value in values)
    return first, second, third


def _in_plane(rule: Rule, before: int, after: int) -> Operator:
    if before == after:
        return None
    if rule.function == TRILINEAR:
        return _interpolated(before, after)
    return _linear(before, after) if rule.order == 1 else _spline(before, after, rule.order)


def _nearest(rule: Rule, before: int, after: int) -> Operator:
    if before == after:
        return None
    if rule.function == TRILINEAR:
        return _nearest_exact(before, after)
    if rule.order_z == 1:
        return _linear(before, after)
    return _mapped(before, after, rule.order_z)


@lru_cache(maxsize=64)
def _spline(before: int, after: int, order: int) -> Matrix:
    """skimage.transform.resize(order, mode="edge", anti_aliasing=False), before clipping."""
    zoom = 1 / (before / after)
    columns = [
        ndimage.zoom(unit, zoom, order=order, mode="nearest", grid_mode=True)
        for unit in np.eye(before)
    ]
    return Matrix(torch.from_numpy(np.stack(columns, axis=1).astype(np.float32)))


@lru_cache(maxsize=64)
def _mapped(before: int, after: int, order: int) -> Operator:
    """scipy.ndimage.map_coordinates, mode "nearest", at the centres of the new voxels."""
    scale = float(before) / after
    centres = (scale * (np.arange(after) + 0.5) - 0.5)[None]
    if order == 0:
        numbers = np.arange(before, dtype=float)
        chosen = ndimage.map_coordinates(numbers, centres, order=0, mode="nearest")
        return _chosen(chosen.astype(np.int64))
    columns = [
        ndimage.map_coordinates(unit, centres, order=order, mode="nearest")
        for unit in np.eye(before)
    ]
    return Matrix(torch.from_numpy(np.stack(columns, axis=1).astype(np.float32)))


@lru_cache(maxsize=64)
def _linear(before: int, after: int) -> Taps:
    """skimage's order 1: voxels at their centres, the edge repeated."""
    centres = (np.arange(after) + 0.5) * (before / after) - 0.5
    return _taps(centres.clip(0, before - 1), before)


@lru_cache(maxsize=64)
def _interpolated(before: int, after: int) -> Taps:
    """interpolate(mode="linear", align_corners=False), whose coordinates are float32."""
    scale = np.float32(before) / np.float32(after)
    centres = scale * (np.arange(after, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5)
    return _taps(centres.clip(0, before - 1), before)


@lru_cache(maxsize=64)
def _nearest_exact(before: int, after: int) -> Taps:
    """interpolate(mode="nearest-exact"), whose coordinates are float32."""
    scale = np.float32(before) / np.float32(after)
    centres = (np.arange(after, dtype=np.float32) + np.float32(0.5)) * scale
    return _chosen(np.floor(centres).astype(np.int64).clip(0, before - 1))


def _taps(centres: NDArray[np.floating], before: int) -> Taps:
    lower = np.floor(centres).astype(np.int64)
    upper = np.minimum(lower + 1, before - 1)
    return Taps(lower, upper, (centres - lower).astype(np.float32))


def _chosen(numbers: NDArray[np.int64]) -> Taps:
    return Taps(numbers, numbers, np.zeros(len(numbers), np.float32))
