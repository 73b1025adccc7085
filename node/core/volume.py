"""Voxels with their geometry. Arrays are (slice, row, column); points are DICOM patient LPS, mm."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Affine = NDArray[np.float64]
T = TypeVar("T", bound=np.generic)

# NIfTI axis letters as (LPS axis, sign along it): R is −x, A is −y, S is +z.
_LETTERS = {"R": (0, -1), "L": (0, 1), "A": (1, -1), "P": (1, 1), "S": (2, 1), "I": (2, -1)}
NATIVE = "native"


@dataclass(frozen=True, eq=False)
class Volume:
    """Intensities on a regular grid.

    array: float32, (slice, row, column). affine: 4×4, (slice, row, column, 1) → LPS mm.
    """

    array: NDArray[np.float32]
    affine: Affine
    frame_of_reference_uid: str

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbours along (slice, row, column), mm."""
        return spacing_mm(self.affine)


@dataclass(frozen=True, eq=False)
class LabelMap:
    """Labels on a Volume's grid: 0 is background. array: uint8 or uint16, (slice, row, column).

    positions: centre of each slice's first voxel, LPS mm, (slice, xyz), where the slices do not lie
    on the affine's even steps: brought back to slices that are tilted or unevenly spaced.
    probabilities: by label, on the same grid, 255 is certain; None where nobody asked for them.
    """

    array: NDArray[np.uint8] | NDArray[np.uint16]
    affine: Affine
    frame_of_reference_uid: str
    positions: NDArray[np.float64] | None = None
    probabilities: Mapping[int, NDArray[np.uint8]] | None = None

    @property
    def slice_positions(self) -> NDArray[np.float64]:
        """Where each slice's first voxel lies, LPS mm, (slice, xyz)."""
        if self.positions is not None:
            return self.positions
        steps = np.arange(self.array.shape[0])[:, None]
        return np.asarray(self.affine[:3, 3] + steps * self.affine[:3, 0], np.float64)

    @property
    def voxel_ml(self) -> NDArray[np.float64]:
        """Volume of a voxel of each slice, ml; it reaches half way to the next slices."""
        normal = np.cross(self.affine[:3, 2], self.affine[:3, 1])  # length: mm² of a voxel
        along = np.abs(self.slice_positions @ normal - self.slice_positions[0] @ normal)
        if len(along) < 2:
            return np.full(1, abs(float(np.linalg.det(self.affine[:3, :3]))) / 1000.0)
        gaps = np.diff(along)
        reach = np.concatenate([gaps[:1], (gaps[:-1] + gaps[1:]) / 2.0, gaps[-1:]])
        return np.asarray(reach / 1000.0, np.float64)

    def volume_ml(self, label: int) -> float:
        """Volume of one label, ml."""
        return float(np.count_nonzero(self.array == label, axis=(1, 2)) @ self.voxel_ml)


def spacing_mm(affine: Affine) -> tuple[float, float, float]:
    """Length of the affine's axes (slice, row, column), mm."""
    slices, rows, columns = np.linalg.norm(affine[:3, :3], axis=0)
    return float(slices), float(rows), float(columns)


@dataclass(frozen=True)
class AxisMap:
    """How to turn one grid's axes into another's: permute, then flip. Nothing is interpolated.

    permutation[t] is the source axis that becomes axis t; flips[t] says whether t runs backwards.
    """

    permutation: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    def apply(self, volume: Volume) -> Volume:
        """The same voxels in the turned grid, with the affine that keeps every voxel in place."""
        turned = np.ascontiguousarray(np.flip(volume.array.transpose(self.permutation), self._axes))
        matrix = np.eye(4)
        matrix[:3, :3] = 0.0
        for target, (source, flipped) in enumerate(zip(self.permutation, self.flips, strict=True)):
            matrix[source, target] = -1.0 if flipped else 1.0
            if flipped:
                matrix[source, 3] = volume.array.shape[source] - 1
        return Volume(turned, volume.affine @ matrix, volume.frame_of_reference_uid)

    def undo(self, array: NDArray[T]) -> NDArray[T]:
        """An array of the turned grid back in the order of the source grid."""
        back = np.argsort(self.permutation)
        return np.ascontiguousarray(np.flip(array, self._axes).transpose(back))

    @property
    def _axes(self) -> tuple[int, ...]:
        return tuple(axis for axis, flipped in enumerate(self.flips) if flipped)


def axis_map(affine: Affine, orientation: str) -> AxisMap:
    """The turn from a grid to the one nearest to `orientation`.

    orientation: NIfTI axis letters in (x, y, z) order as in "RAS": x grows towards Right, y
    towards Anterior, z towards Superior; or "native" for no turn. nnU-Net's arrays are (z, y, x),
    so the letters apply to the array's axes in reverse. Oblique grids take the nearest axes.
    Raises ValueError for anything else.
    """
    if orientation == NATIVE:
        return AxisMap((0, 1, 2), (False, False, False))
    wanted = [_LETTERS[letter] for letter in reversed(parse_orientation(orientation))]
    cosines = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    best = max(
        permutations(range(3)),
        key=lambda order: sum(
            abs(cosines[axis, source]) for (axis, _), source in zip(wanted, order, strict=True)
        ),
    )
    flips = [
        bool(cosines[axis, source] * sign < 0)
        for (axis, sign), source in zip(wanted, best, strict=True)
    ]
    return AxisMap((best[0], best[1], best[2]), (flips[0], flips[1], flips[2]))


def parse_orientation(orientation: str) -> str:
    """Checks three axis letters, one of each of R/L, A/P, S/I. Raises ValueError."""
    letters = orientation.upper()
    known = all(letter in _LETTERS for letter in letters)
    if len(letters) != 3 or not known or len({_LETTERS[letter][0] for letter in letters}) != 3:
        raise ValueError(
            f'"{orientation}" is not an orientation; write three letters such as "RAS" or "LPS", '
            f'one each of R/L, A/P and S/I, or "{NATIVE}"'
        )
    return letters
