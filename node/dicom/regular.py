"""Tilted or unevenly spaced slices onto a regular grid, and labels of that grid back onto them.

Linear between neighbouring slices and within each; no slice is invented where one is missing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from node.core.volume import Affine, LabelMap, Volume
from node.dicom.planes import Plane
from node.dicom.volumes import normal, positions, tolerance_mm

MAX_GAP_MM: Final = 10.0  # between two slices that are interpolated
MAX_TILT_DEGREES: Final = 35.0  # gantries reach 30
_SECOND_SPACING = 3  # so many equal gaps in a row are a spacing; fewer are missing slices
_MAX_GROWTH = 3  # times as many slices as there were

Vector = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Regular:
    """How slices lie in a regular grid that holds them all.

    offsets: (slice, 2) rows and columns from the grid's first voxel to the slice's, in voxels.
    places: where each slice lies along the grid's slice axis, in its slices. affine: of the grid.
    """

    affine: Affine
    shape: tuple[int, int, int]
    offsets: Vector
    places: Vector
    positions: Vector
    source_affine: Affine

    def resampled(self, voxels: NDArray[np.float32], frame_of_reference_uid: str) -> Volume:
        """The slices (slice, row, column) on the grid; outside all slices the lowest value."""
        lowest = np.float32(voxels.min())
        array = np.empty(self.shape, np.float32)
        for index in range(self.shape[0]):
            after = int(np.searchsorted(self.places, index - 1e-9))
            after = min(max(after, 1), len(self.places) - 1)
            before = after - 1
            gap = self.places[after] - self.places[before]
            weight = float(np.clip((index - self.places[before]) / gap, 0.0, 1.0))
            array[index] = self._blended(voxels, before, after, weight, lowest)
        return Volume(array, self.affine, frame_of_reference_uid)

    def back(self, label_map: LabelMap) -> LabelMap:
        """Labels of the grid on the slices: each voxel gets the label nearest to it.

        Probabilities, too: each voxel keeps those of the label that it gets.
        """
        found = label_map.probabilities
        return LabelMap(
            self._on_slices(label_map.array),
            self.source_affine,
            label_map.frame_of_reference_uid,
            self.positions,
            {label: self._on_slices(one) for label, one in found.items()} if found else None,
        )

    def _on_slices(self, grid: NDArray[Any]) -> NDArray[Any]:
        _, rows, columns = self.source_shape
        array = np.empty(self.source_shape, grid.dtype)
        for index, (place, (row, column)) in enumerate(zip(self.places, self.offsets, strict=True)):
            plane = grid[min(max(round(float(place)), 0), self.shape[0] - 1)]
            first_row, first_column = round(float(row)), round(float(column))
            array[index] = plane[
                first_row : first_row + rows, first_column : first_column + columns
            ]
        return array

    @property
    def source_shape(self) -> tuple[int, int, int]:
        """(slice, row, column) of the slices themselves."""
        spare = np.ceil(self.offsets.max(axis=0) - 1e-9).astype(int)
        return len(self.places), self.shape[1] - int(spare[0]), self.shape[2] - int(spare[1])

    def _blended(
        self,
        voxels: NDArray[np.float32],
        before: int,
        after: int,
        weight: float,
        lowest: np.float32,
    ) -> NDArray[np.float32]:
        if weight < 1e-6:
            return self._shifted(voxels[before], self.offsets[before], lowest)
        if weight > 1 - 1e-6:
            return self._shifted(voxels[after], self.offsets[after], lowest)
        one = self._shifted(voxels[before], self.offsets[before], lowest)
        other = self._shifted(voxels[after], self.offsets[after], lowest)
        return np.asarray(one * (1.0 - weight) + other * weight, np.float32)

    def _shifted(
        self, plane: NDArray[np.float32], offset: Vector, lowest: np.float32
    ) -> NDArray[np.float32]:
        """A slice in the grid's rows and columns: linear along each, for a part of a voxel."""
        _, rows, columns = self.shape
        shifted = _moved(plane, float(offset[0]), rows, lowest)
        return np.ascontiguousarray(_moved(shifted.T, float(offset[1]), columns, lowest).T)


def _moved(
    plane: NDArray[np.float32], offset: float, length: int, lowest: np.float32
) -> NDArray[np.float32]:
    """out[i] = plane[i − offset] along the first axis, `lowest` where that is outside."""
    whole = int(np.floor(offset + 1e-9))
    part = np.float32(max(offset - whole, 0.0))
    out = np.full((length, plane.shape[1]), lowest, np.float32)
    if part < 1e-6:
        out[whole : whole + len(plane)] = plane
        return out
    out[whole + 1 : whole + len(plane)] = plane[:-1] * part + plane[1:] * (1 - part)
    # The border has half a neighbour: the voxel itself, where more than half of it is there.
    if part <= 0.5:
        out[whole] = plane[0]
    else:
        out[whole + len(plane)] = plane[-1]
    return out


def regular_grid(planes: Sequence[Plane], source_affine: Affine) -> Regular | str:
    """The grid for sorted Planes, or a sentence why they are not resampled."""
    points, first = positions(planes), planes[0]
    direction = normal(first)
    along = (points - points[0]) @ direction
    cosines = np.asarray(first.orientation, float).reshape(2, 3)
    spacing = np.asarray(first.pixel_spacing, float)
    in_plane = (points - points[0]) @ np.stack([cosines[1], cosines[0]], axis=1) / spacing
    refusal = _off_line(planes, along, in_plane * spacing) or _gap(planes, np.diff(along))
    if refusal:
        return refusal
    gaps = np.diff(along)
    even = bool((np.abs(gaps - np.median(gaps)) <= tolerance_mm(float(np.median(gaps)))).all())
    count = len(planes) if even else round(float(along[-1] / gaps.min())) + 1
    if count > _MAX_GROWTH * len(planes):
        return f"{count} slices would be made of {len(planes)}"
    step = float(along[-1] / (count - 1))
    lowest = np.floor(in_plane.min(axis=0) + 1e-9)
    offsets = np.maximum(in_plane - lowest, 0.0)
    spare = np.ceil(offsets.max(axis=0) - 1e-9).astype(int)
    assert first.rows is not None  # a candidate's planes have all
    assert first.columns is not None
    affine = np.eye(4)
    affine[:3, 0] = direction * step
    affine[:3, 1] = cosines[1] * spacing[0]
    affine[:3, 2] = cosines[0] * spacing[1]
    affine[:3, 3] = points[0] + affine[:3, 1:3] @ lowest
    shape = (count, first.rows + int(spare[0]), first.columns + int(spare[1]))
    places = np.arange(count, dtype=float) if even else along / step
    return Regular(affine, shape, offsets, places, points, source_affine)


def _off_line(planes: Sequence[Plane], along: Vector, in_plane_mm: Vector) -> str | None:
    """Tilted slices lie on one line; what wanders off it is no gantry's tilt."""
    slope = in_plane_mm[-1] / along[-1]
    degrees = float(np.degrees(np.arctan(np.linalg.norm(slope))))
    if degrees > MAX_TILT_DEGREES:
        return f"a tilt of {degrees:.1f}° is more than the {MAX_TILT_DEGREES:g}° that are resampled"
    off = np.linalg.norm(in_plane_mm - along[:, None] * slope, axis=1)
    worst = int(np.argmax(off))
    if off[worst] > tolerance_mm(float(np.median(np.diff(along)))):
        return f"{planes[worst]} lies {off[worst]:.2f} mm off the line of the other slices"
    return None


def _gap(planes: Sequence[Plane], gaps: Vector) -> str | None:
    """A gap that a slice may be missing from is not bridged: what is there is not known.

    A gap below twice the usual one holds no slice of that spacing; one that comes several times in
    a row is a spacing of its own.
    """
    usual = float(np.median(gaps))
    same = (
        np.abs(gaps[:, None] - gaps[None, :]) <= tolerance_mm(usual) if len(gaps) < 2000 else None
    )
    for index, gap in enumerate(gaps):
        where = f"{gap:.2f} mm between {planes[index]} and {planes[index + 1]}"
        if gap > MAX_GAP_MM and gap > usual + tolerance_mm(usual):
            return f"{where} is more than the {MAX_GAP_MM:g} mm that are interpolated"
        if gap < 2 * usual - tolerance_mm(2 * usual):
            continue
        if same is None or _run(same[index], index) < _SECOND_SPACING:
            return f"{where}, {usual:.2f} mm elsewhere: a slice is missing there"
    return None


def _run(same: NDArray[np.bool_], index: int) -> int:
    """How many gaps in a row, this one among them, are the same."""
    first = last = index
    while first > 0 and same[first - 1]:
        first -= 1
    while last < len(same) - 1 and same[last + 1]:
        last += 1
    return last - first + 1
