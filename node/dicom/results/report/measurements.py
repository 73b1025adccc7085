"""What is measured of each Segment: volume, intensities, largest diameter.

Volume and diameter are of the labels on the slices of the source, where the Segmentation has them;
intensities are of the voxels that the network labelled. The two grids differ where slices are
tilted or unevenly spaced.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import floor, log10, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from node.core.volume import LabelMap, Volume

_SIGNIFICANT_DIGITS = 7
_BLOCK = 256  # points compared with all others at a time
_FEW = 1000  # points that are compared faster than their hull is found
_WALKS = 4  # from a point to the one farthest from it

Labels = NDArray[Any]
Mask = NDArray[np.bool_]
Points = NDArray[np.float64]
Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Intensities:
    """Of the voxels of a Segment, in the unit of the image. deviation: of a population, ÷ n."""

    mean: float
    deviation: float


@dataclass(frozen=True)
class Measured:
    """What is known of a Segment. diameter_mm: the longest distance between two of its points.

    intensities: None where no voxel was labelled on the grid of the network, which may be when
    a few voxels are brought back to the slices, or where they are no numbers.
    """

    volume_ml: float
    diameter_mm: float
    intensities: Intensities | None


def measure(label_map: LabelMap, predicted: LabelMap, volume: Volume) -> Mapping[int, Measured]:
    """Each label with at least a voxel in the label map, in order of labels."""
    places = boxes(label_map.array)
    same = predicted.array is label_map.array
    on_volume = places if same else boxes(predicted.array)
    voxel_ml = label_map.voxel_ml
    found = {}
    for label, box in places.items():
        mask = label_map.array[box] == label
        volume_ml = float(np.count_nonzero(mask, axis=(1, 2)) @ voxel_ml[box[0]])
        diameter = largest_diameter_mm(mask, box, label_map)
        found[label] = Measured(
            rounded(volume_ml),
            rounded(diameter),
            _intensities(volume.array, predicted.array, on_volume.get(label), label),
        )
    return found


def boxes(array: Labels) -> dict[int, Box]:
    """The smallest box around each label but 0, found in one pass."""
    from scipy.ndimage import find_objects  # 16 MB, which only a report needs

    return {label: box for label, box in enumerate(find_objects(array), start=1) if box}


def _intensities(
    values: NDArray[np.float32], labels: Labels, box: Box | None, label: int
) -> Intensities | None:
    """Summed slice by slice, around one of the values: that loses neither memory nor digits."""
    if box is None:
        return None
    count, total, squares, origin = 0, 0.0, 0.0, None
    for plane, labelled in zip(values[box], labels[box], strict=True):
        chosen = plane[labelled == label].astype(np.float64)
        if not chosen.size:
            continue
        origin = float(chosen[0]) if origin is None else origin
        chosen -= origin
        count += chosen.size
        total += float(chosen.sum())
        squares += float(chosen @ chosen)
    mean = total / count
    deviation = sqrt(max(squares / count - mean**2, 0.0)) if np.isfinite(squares) else float("nan")
    mean += origin or 0.0
    if not (np.isfinite(mean) and np.isfinite(deviation)):
        return None
    scale = abs(mean) + deviation
    return Intensities(rounded(mean, scale), rounded(deviation, scale))


def largest_diameter_mm(mask: Mask, box: Box, label_map: LabelMap) -> float:
    """Maximum 3D Diameter of the mesh of a Segment (IBSI L0JK), mm; exact.

    The mesh is that of marching cubes at one half: its vertices lie half way between each voxel
    and a neighbour (of six) outside, so that one voxel is as long as its longest side.
    """
    crossings = np.concatenate(list(_crossings(mask))) + [axis.start for axis in box]
    points = _points_mm(crossings, label_map)
    near_ends = _near_ends(points)
    crossings, points = crossings[near_ends], points[near_ends]
    if len(points) > _FEW:
        even = label_map.positions is None
        points = points[_corners(crossings if even else points)]
    return _farthest_mm(points)


def _crossings(mask: Mask) -> Iterator[Points]:
    """Where the Segment ends along each axis: (slice, row, column), at halves on that axis."""
    for axis in range(3):
        ends = np.diff(mask, axis=axis, prepend=False, append=False)  # of booleans: where unequal
        indices = np.argwhere(ends).astype(np.float64)
        indices[:, axis] -= 0.5
        yield indices


def _points_mm(indices: Points, label_map: LabelMap) -> Points:
    """(slice, row, column) as LPS mm; half way between two slices that have places of their own."""
    places = label_map.slice_positions
    if len(places) == 1:
        places = places + np.arange(-1, 2)[:, None] * label_map.affine[:3, 0]
    else:
        before, after = 2 * places[0] - places[1], 2 * places[-1] - places[-2]
        places = np.concatenate([[before], places, [after]])
    steps = indices[:, 0] + 1.0  # of `places`, which begins a slice early
    low = np.floor(steps).astype(int)
    part = (steps - low)[:, None]
    origins = places[low] * (1.0 - part) + places[np.minimum(low + 1, len(places) - 1)] * part
    return np.asarray(origins + indices[:, 1:] @ label_map.affine[:3, 1:3].T, np.float64)


def _near_ends(points: Points) -> Mask:
    """Which points can be an end of the longest line at all.

    No line is longer than its two ends' distances from a centre together, so that an end lies at
    least as far off as the longest line that is known is longer than the farthest point. Of what
    is long that leaves a few points, of a ball all.
    """
    start, end = points[0], points[0]
    for _ in range(_WALKS):
        start, end = end, points[np.argmax(_distances(points, end))]
    longest = float(np.linalg.norm(end - start))
    radii = _distances(points, (start + end) / 2.0)
    return np.asarray(radii >= (longest - radii.max()) * (1.0 - 1e-9), np.bool_)


def _distances(points: Points, origin: Points) -> Points:
    return np.asarray(np.linalg.norm(points - origin, axis=1), np.float64)


def _corners(points: Points) -> NDArray[np.intp]:
    """The corners of the convex hull, between two of which the longest line is.

    In steps of the grid, where a voxel that is a thousand times longer than wide is still a cube.
    """
    from scipy.spatial import ConvexHull, QhullError  # 12 MB, as above

    try:
        return np.asarray(ConvexHull(points).vertices)
    except QhullError:  # all but flat: joggled by less than seven digits tell
        return np.asarray(ConvexHull(points, qhull_options="QJ").vertices)


def _farthest_mm(points: Points) -> float:
    longest = 0.0
    for start in range(0, len(points), _BLOCK):
        apart = points[start : start + _BLOCK, None] - points[None, start:]
        longest = max(longest, float(np.einsum("ijk,ijk->ij", apart, apart).max()))
    return sqrt(longest)


def rounded(value: float, scale: float | None = None) -> float:
    """To seven significant digits (of `scale`): more than is known, and the same on every machine.

    Sums differ in their last digits from one processor to the next, and bytes must not.
    """
    size = abs(value if scale is None else scale)
    if not size:
        return 0.0
    return round(value, _SIGNIFICANT_DIGITS - 1 - floor(log10(size))) + 0.0
