"""Measurements counted again for the gate, by other ways than those of the report.

Slices are counted label by label in one go, where the report cuts each Segment out; ends are found
line by line, where the report looks for changes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from node.core.volume import LabelMap, Volume

Counts = NDArray[np.float64]
Mask = NDArray[np.bool_]
Points = NDArray[np.float64]


@dataclass(frozen=True)
class Counted:
    """Of one label. mean, deviation: None where the network's grid has no such voxel."""

    volume_ml: float
    diameter_mm: float
    mean: float | None
    deviation: float | None


def count_again(label_map: LabelMap, predicted: LabelMap, volume: Volume) -> Mapping[int, Counted]:
    """Every label but 0 that has a voxel in the label map."""
    from scipy.ndimage import find_objects

    size = int(label_map.array.max()) + 1
    boxes = find_objects(label_map.array)
    counts = np.stack([np.bincount(p.ravel(), minlength=size) for p in label_map.array])
    volumes = _slices_ml(label_map) @ counts
    means, deviations = _intensities(predicted, volume, size)
    found = {}
    for label in range(1, size):
        if counts[:, label].any():
            known = bool(np.isfinite(means[label] + deviations[label]))
            found[label] = Counted(
                float(volumes[label]),
                _diameter_mm(label_map, label, boxes[label - 1]),
                float(means[label]) if known else None,
                float(deviations[label]) if known else None,
            )
    return found


def _edges(places: Points) -> Points:
    """Half way between neighbours along the first axis, and as far beyond the first and last."""
    half = np.diff(places, axis=0) / 2.0
    return np.concatenate([places[:1] - half[:1], places[:-1] + half, places[-1:] + half[-1:]])


def _slices_ml(label_map: LabelMap) -> Counts:
    """What a voxel of each slice holds, ml; the first and last reach as far out as in."""
    row, column = label_map.affine[:3, 1], label_map.affine[:3, 2]
    area = np.cross(row, column)
    if len(label_map.array) == 1:
        return np.array([abs(float(label_map.affine[:3, 0] @ area)) / 1000.0])
    along = (label_map.slice_positions @ area)[:, None]
    reach = np.abs(np.diff(_edges(along), axis=0))[:, 0]
    reach[0] = abs(along[1, 0] - along[0, 0])
    reach[-1] = abs(along[-1, 0] - along[-2, 0])
    return np.asarray(reach / 1000.0, np.float64)


def _intensities(predicted: LabelMap, volume: Volume, size: int) -> tuple[Counts, Counts]:
    """Mean and standard deviation (÷ n) of each label below `size`; not a number without voxels."""
    size = max(size, int(predicted.array.max()) + 1)
    pairs = list(zip(predicted.array, volume.array, strict=True))
    counts = sum(np.bincount(labels.ravel(), minlength=size) for labels, _ in pairs)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        sums = sum(np.bincount(labels.ravel(), values.ravel(), size) for labels, values in pairs)
        means = np.asarray(sums / counts, np.float64)
        squares = sum(
            np.bincount(labels.ravel(), (values - means[labels]).ravel() ** 2, size)
            for labels, values in pairs
        )
        return means, np.asarray(np.sqrt(squares / counts), np.float64)


def _diameter_mm(label_map: LabelMap, label: int, box: tuple[slice, slice, slice]) -> float:
    """The longest line between two vertices of the mesh at one half, by their convex hull."""
    from scipy.spatial import ConvexHull, QhullError
    from scipy.spatial.distance import cdist

    ends = np.concatenate(list(_ends(label_map.array[box] == label)))
    points = _in_mm(ends + np.array([axis.start for axis in box]), label_map)
    try:
        corners = points[ConvexHull(points).vertices]
    except QhullError:
        corners = points[ConvexHull(points, qhull_options="QJ").vertices]
    parts = np.array_split(corners, 1 + len(corners) // 500)
    return max(float(cdist(part, corners).max()) for part in parts)


def _ends(mask: Mask) -> Iterator[Points]:
    """Where lines of voxels begin and end, (slice, row, column), half a voxel out.

    Of a row and a column the first and the last voxel are enough, as what lies between is no
    corner; slices may stand askew, so that of a line across them every end counts.
    """
    for axis in (1, 2):
        hit = mask.any(axis=axis)
        last = mask.shape[axis] - 1 - np.argmax(np.flip(mask, axis), axis=axis)
        where = np.argwhere(hit)
        for at in (np.argmax(mask, axis=axis)[hit] - 0.5, last[hit] + 0.5):
            yield np.insert(where.astype(np.float64), axis, at, axis=1)
    nothing = np.zeros_like(mask[:1])
    below, above = np.concatenate([nothing, mask[:-1]]), np.concatenate([mask[1:], nothing])
    half = np.array([0.5, 0.0, 0.0])
    yield np.argwhere(mask & ~below) - half
    yield np.argwhere(mask & ~above) + half


def _in_mm(indices: Points, label_map: LabelMap) -> Points:
    """(slice, row, column) in whole and half steps as LPS mm."""
    places = label_map.slice_positions
    if len(places) == 1:
        places = np.stack([places[0], places[0] + label_map.affine[:3, 0]])
    steps = np.empty((2 * len(places) + 1, 3))
    steps[1::2], steps[::2] = places, _edges(places)
    halves = np.rint(2.0 * indices[:, 0] + 1.0).astype(int)
    row, column = label_map.affine[:3, 1], label_map.affine[:3, 2]
    return np.asarray(steps[halves] + indices[:, 1:2] * row + indices[:, 2:] * column, np.float64)
