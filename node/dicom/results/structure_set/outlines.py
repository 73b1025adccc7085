"""Outlines of the labels of one slice: closed polygons along the edges of their pixels.

A polygon covers exactly the pixels of its label: filling it by pixel centres gives them back, and
its area is theirs. Pixels that touch by a corner alone are apart. A hole is joined to its outline
by a channel without width (the keyhole of PS3.3 C.8.8.6.3), so that those who read polygons by
union, by XOR, by parity or by winding all find it empty.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.integer]
Polygon = NDArray[np.float64]  # (point, row and column); pixel centres are whole numbers
Indices = NDArray[np.integer]

_EAST, _SOUTH, _WEST, _NORTH = range(4)  # an edge has its own pixel at its right hand


def outlines(plane: Labels, max_points: int) -> dict[int, list[Polygon]]:
    """Polygons by label, in the order of their first pixels. plane: (row, column), 0 is outside.

    max_points: of one polygon, at least 4; a region that needs more is cut into several.
    """
    first_row, first_column, cropped = _cropped(plane)
    offset = np.array([first_row, first_column])
    polygons: dict[int, list[Polygon]] = defaultdict(list)
    for label, polygon in _traced(cropped):
        pieces = [polygon] if len(polygon) <= max_points else _cut(cropped, polygon, max_points)
        polygons[label] += [piece + offset for piece in pieces]
    return dict(polygons)


def _cropped(plane: Labels) -> tuple[int, int, Labels]:
    """First row and column of what is not 0, and that part."""
    rows, columns = np.flatnonzero(plane.any(axis=1)), np.flatnonzero(plane.any(axis=0))
    if not rows.size:
        return 0, 0, plane[:0, :0]
    part = plane[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return int(rows[0]), int(columns[0]), part


def _cut(plane: Labels, polygon: Polygon, max_points: int) -> list[Polygon]:
    """The region of a polygon as those of its halves across the longer side: the edges meet."""
    from scipy import ndimage  # 16 MB, which only a Structure Set needs

    row, column = (polygon[0] + 0.5).astype(int)  # its first pixel lies below the first corner
    regions, _ = ndimage.label(plane == plane[row, column])
    top, left, region = _cropped(regions == regions[row, column])
    halves = [region.copy(), region.copy()]
    rows, columns = np.array(region.shape) // 2
    if region.shape[0] >= region.shape[1]:
        halves[0][rows:], halves[1][:rows] = 0, 0
    else:
        halves[0][:, columns:], halves[1][:, :columns] = 0, 0
    pieces = [piece for half in halves for piece in outlines(half, max_points).get(1, [])]
    return [piece + np.array([top, left]) for piece in pieces]


@dataclass(eq=False)
class _Edges:
    """Directed edges between pixels of different labels, and the channels to holes.

    Of each: the corner where it ends (an index into corners of `width` columns), the edge that
    follows, and whether the outline turns where it ends.
    """

    width: int
    label: Indices
    direction: Indices
    end: list[int]
    follower: list[int]
    turns: list[bool]

    def loops(self, starts: Sequence[int]) -> Iterator[list[int]]:
        """Closed walks from edge to edge, each edge once."""
        seen = bytearray(len(self.follower))
        for start in starts:
            walk, edge = [], start
            while not seen[edge]:
                seen[edge] = 1
                walk.append(edge)
                edge = self.follower[edge]
            if walk:
                yield walk

    def corners(self, walk: Sequence[int]) -> Polygon:
        ends = np.array([self.end[edge] for edge in walk if self.turns[edge]])
        return np.stack(np.divmod(ends, self.width), axis=1) - 0.5


def _traced(plane: Labels) -> Iterator[tuple[int, Polygon]]:
    """Label and polygon of each region, whatever its number of points."""
    if not plane.size:
        return
    sides = _sides(plane)
    edges, numbers = _edges(sides)
    tops = np.flatnonzero(edges.direction == _EAST).tolist()
    walks = list(edges.loops(tops + np.flatnonzero(edges.direction == _WEST).tolist()))
    holes = [walk for walk in walks if _is_hole(edges, walk)]
    for hole in holes:
        _join(edges, hole, sides, numbers)
    if holes:
        walks = list(edges.loops(tops))
    for walk in walks:
        yield int(edges.label[walk[0]]), edges.corners([walk[-1], *walk[:-1]])


def _sides(plane: Labels) -> Labels:
    """The pixels right and left of an edge that starts at a corner: (side, direction, corner)."""
    padded = np.pad(plane, 1)
    upper_left, upper_right = padded[:-1, :-1], padded[:-1, 1:]
    lower_left, lower_right = padded[1:, :-1], padded[1:, 1:]
    right = (lower_right, lower_left, upper_left, upper_right)
    left = (upper_right, lower_right, lower_left, upper_left)
    return np.stack([np.stack(right), np.stack(left)])


def _edges(sides: Labels) -> tuple[_Edges, Indices]:
    """All edges, and the number of the edge by direction and corner (−1: none)."""
    _, _, height, width = sides.shape
    right, left = sides.reshape(2, 4, height * width)
    exists = (right != left) & (right != 0)
    direction, start = np.nonzero(exists)
    numbers = np.full(exists.shape, -1)
    numbers[direction, start] = np.arange(len(start))
    label = right[direction, start]
    end = start + np.array([1, width, -1, -width])[direction]
    # Ahead on the right another label: around the own pixel. Ahead on both sides the own: left.
    turned = np.where(
        right[direction, end] != label, 1, np.where(left[direction, end] != label, 0, 3)
    )
    follower = numbers[(direction + turned) % 4, end]
    edges = _Edges(width, label, direction, end.tolist(), follower.tolist(), (turned != 0).tolist())
    return edges, numbers


def _is_hole(edges: _Edges, walk: Sequence[int]) -> bool:
    """Whether a walk goes around a hole: its topmost edge has its own pixel above it."""
    top = min(walk, key=lambda edge: edges.end[edge])
    return bool(edges.direction[top] == _WEST)


def _join(edges: _Edges, hole: Sequence[int], sides: Labels, numbers: Indices) -> None:
    """A channel straight up from the first corner of a hole to the next outline, there and back."""
    width = edges.width
    upper_left, upper_right = sides[0, _WEST].ravel(), sides[0, _NORTH].ravel()
    into = min(hole, key=lambda edge: edges.end[edge])
    label, below = edges.label[into], edges.end[into]
    above = below - width
    while upper_left[above] == label == upper_right[above]:
        above -= width
    if upper_left[above] != label:
        onto = int(numbers[_EAST, above - 1])
    else:
        onto = int(numbers[_SOUTH, above - width])
    down = len(edges.follower)
    edges.follower += [edges.follower[into], edges.follower[onto]]
    edges.follower[onto], edges.follower[into] = down, down + 1
    edges.end += [below, above]
    edges.turns += [True, True]
    edges.turns[onto] = True
