"""Several channels on one grid: that of the first, in one Frame of Reference."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from node.core.errors import SeriesRejected
from node.core.volume import Affine, Volume

LEAST_OVERLAP: Final = 0.5  # of the first channel's voxels must lie within each other channel
_SAME_MM = 0.01

Vector = NDArray[np.float64]


def align(volumes: Sequence[Volume], channels: Sequence[str]) -> tuple[Volume, ...]:
    """Each Volume on the grid of the first; those that lie on it already stay as they are.

    Trilinear between voxels; beyond the border voxels the channel's lowest value.
    Raises SeriesRejected where Volumes have no Frame of Reference in common, or hardly overlap.
    """
    first = volumes[0]
    return (
        first,
        *(
            _onto(first, other, f"channel {name} and channel {channels[0]}")
            for other, name in zip(volumes[1:], channels[1:], strict=True)
        ),
    )


def _onto(first: Volume, other: Volume, pair: str) -> Volume:
    if other.frame_of_reference_uid != first.frame_of_reference_uid:
        raise SeriesRejected(
            f"{pair} have no common Frame of Reference: {other.frame_of_reference_uid} and "
            f"{first.frame_of_reference_uid}; nothing says how one lies on the other"
        )
    if _same_grid(first, other):
        return other
    to_other = np.linalg.inv(other.affine) @ first.affine
    array, inside = _sampled(other.array, to_other, first.array.shape)
    if inside < LEAST_OVERLAP:
        raise SeriesRejected(
            f"{pair} hardly overlap: only {inside:.0%} of the latter's voxels lie within the "
            f"former, {LEAST_OVERLAP:.0%} are needed"
        )
    return Volume(array, first.affine, first.frame_of_reference_uid)


def _same_grid(one: Volume, other: Volume) -> bool:
    """All corners of the grids within 0.01 mm."""
    if one.array.shape != other.array.shape:
        return False
    corners = np.array(np.meshgrid(*((0, n - 1) for n in one.array.shape), [1])).reshape(4, -1)
    off = np.linalg.norm(((one.affine - other.affine) @ corners)[:3], axis=0)
    return bool(off.max() <= _SAME_MM)


def _sampled(
    array: NDArray[np.float32], to_other: Affine, shape: tuple[int, ...]
) -> tuple[NDArray[np.float32], float]:
    """Trilinear samples slice by slice, and which part of them lay inside."""
    lowest = np.float32(array.min())
    out = np.empty(shape, np.float32)
    rows, columns = np.meshgrid(np.arange(shape[1]), np.arange(shape[2]), indexing="ij")
    inside = 0
    for index in range(shape[0]):
        points = (
            to_other[:3, 0, None, None] * index
            + to_other[:3, 1, None, None] * rows
            + to_other[:3, 2, None, None] * columns
            + to_other[:3, 3, None, None]
        )
        within, values = _trilinear(array, points)
        out[index] = np.where(within, values, lowest)
        inside += int(np.count_nonzero(within))
    return out, inside / out.size


def _trilinear(
    array: NDArray[np.float32], points: Vector
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """points: (axis, row, column) in voxels. Half a voxel around the border counts as inside."""
    last = np.asarray(array.shape)[:, None, None] - 1
    within = np.all((points >= -0.5) & (points <= last + 0.5), axis=0)
    clipped = np.clip(points, 0, last)
    low = np.minimum(np.floor(clipped).astype(np.int64), np.maximum(last - 1, 0))
    high = np.minimum(low + 1, last)
    part = (clipped - low).astype(np.float32)
    values: NDArray[np.float32] = np.zeros(points.shape[1:], np.float32)
    for corner in range(8):
        chosen = [(corner >> axis) & 1 for axis in range(3)]
        weight: NDArray[np.float32] = np.ones_like(values)
        for axis, upper in enumerate(chosen):
            weight *= part[axis] if upper else 1 - part[axis]
        at = tuple((high if upper else low)[axis] for axis, upper in enumerate(chosen))
        values += array[at] * weight
    return within, values
