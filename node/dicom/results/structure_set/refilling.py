"""Contours of an RT Structure Set back on the source's slices, for the gate.

Knows of the encoder only what the Standard says of its work: points are LPS mm, a contour names
the frame it lies on, and a closed one is filled by parity.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from node.core.errors import Fatal
from node.dicom.results.answer import Answer
from node.dicom.volumes import tolerance_mm

POSITION_TOLERANCE_MM = 0.01
_LONGEST = 65534  # bytes of a DS in Explicit VR, PS3.5 7.1.2
_DECIMAL_STRING = 16  # bytes of one of its values, PS3.5 6.2
_HALF = 0.51  # of a pixel: how far from the centre of the outermost one a point may lie

Vector = NDArray[np.float64]
Origin = tuple[str, int | None]


@dataclass(frozen=True, eq=False)
class SourceSlice:
    """A slice as the source's header states it.

    index: of the label map's slice that lies there. position: centre of the first pixel, LPS mm.
    inverse: (xyz, 3) from mm to rows, columns and mm off the plane.
    """

    index: int
    position: Vector
    inverse: Vector

    def pixels(self, points_mm: Vector) -> Vector:
        """Rows and columns of points (point, xyz) in the plane. Raises Fatal where they are not."""
        places = (points_mm - self.position) @ self.inverse
        off = float(np.abs(places[:, 2]).max())
        if not off <= POSITION_TOLERANCE_MM:
            raise wrong_structure_set(f"a contour lies {off:.3f} mm off slice {self.index}")
        return places[:, :2]


def wrong_structure_set(sentence: str) -> Fatal:
    return Fatal(f"the Structure Set is wrong and must not leave (please report this): {sentence}")


def source_slices(answer: Answer) -> Mapping[Origin, SourceSlice]:
    """The slices that the labels lie on, by SOP Instance UID and frame. Raises Fatal."""
    by_uid = {str(one.SOPInstanceUID): one for one in answer.source.instances}
    allowed = tolerance_mm(float(np.linalg.norm(answer.label_map.affine[:3, 0])))
    slices = {}
    for plane in answer.planes:
        position, inverse = _stated(by_uid[plane.sop_instance_uid], plane.frame)
        off = np.linalg.norm(answer.label_map.slice_positions - position, axis=1)
        index = int(np.argmin(off))
        if not off[index] <= allowed:
            raise wrong_structure_set(f"{plane} lies {off[index]:.3f} mm off the label map")
        slices[plane.sop_instance_uid, plane.frame] = SourceSlice(index, position, inverse)
    if len({one.index for one in slices.values()}) != len(answer.label_map.array):
        raise wrong_structure_set("its source has other slices than the label map")
    return slices


def _stated(instance: Dataset, frame: int | None) -> tuple[Vector, Vector]:
    """Position and inverse of a frame: from its own groups, or those of all (PS3.3 C.7.6.16)."""
    position = orientation = measures = instance
    if frame is not None:
        own = instance.PerFrameFunctionalGroupsSequence[frame - 1]
        shared = (instance.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
        position = _group(own, shared, "PlanePositionSequence")
        orientation = _group(own, shared, "PlaneOrientationSequence")
        measures = _group(own, shared, "PixelMeasuresSequence")
    along_rows, along_columns = np.asarray(orientation.ImageOrientationPatient, float).reshape(2, 3)
    row_spacing, column_spacing = np.asarray(measures.PixelSpacing, float)
    normal = np.cross(along_rows, along_columns)
    axes = np.stack([along_columns * row_spacing, along_rows * column_spacing, normal])
    return np.asarray(position.ImagePositionPatient, float), np.linalg.inv(axes)


def _group(own: Dataset, shared: Dataset, keyword: str) -> Dataset:
    item: Dataset = getattr(own if keyword in own else shared, keyword)[0]
    return item


def paint(
    painted: NDArray[np.generic],
    contour: Dataset,
    label: int,
    slices: Mapping[Origin, SourceSlice],
    name: str,
) -> None:
    """Fills one contour in the label map's grid. Raises Fatal where it may not lie there.

    Contours may not overlap: then union and XOR of them are the same, whichever a reader takes.
    """
    (image,) = contour.ContourImageSequence
    frame = image.get("ReferencedFrameNumber")
    origin = str(image.ReferencedSOPInstanceUID), None if frame is None else int(frame)
    if origin not in slices or contour.ContourGeometricType != "CLOSED_PLANAR":
        raise wrong_structure_set(f"a contour of {name} is not closed, or on no source slice")
    place = slices[origin]
    polygon = place.pixels(_points_mm(contour, name))
    plane = painted[place.index]
    limits = np.asarray(plane.shape) - 1
    if polygon.min() < -_HALF or (polygon > limits + _HALF).any():
        raise wrong_structure_set(f"a contour of {name} leaves slice {place.index}")
    top, left, inside = filled(polygon, (plane.shape[0], plane.shape[1]))
    box = plane[top : top + inside.shape[0], left : left + inside.shape[1]]
    if box[inside].any():
        raise wrong_structure_set(f"a contour of {name} overlaps another on slice {place.index}")
    box[inside] = label


def _points_mm(contour: Dataset, name: str) -> Vector:
    """(point, xyz), LPS, from the bytes: a pydicom value for each takes ten times as long."""
    value = contour.get_item("ContourData").value
    texts = np.array(bytes(value).split(b"\\"))
    if len(value) > _LONGEST or texts.dtype.itemsize > _DECIMAL_STRING:
        raise wrong_structure_set(f"the Contour Data of {name} has {len(value)} bytes")
    points = texts.astype(np.float64).reshape(-1, 3)
    if len(points) != int(contour.NumberOfContourPoints) or not np.isfinite(points).all():
        raise wrong_structure_set(f"a contour of {name} has another number of points than it says")
    return points


def filled(polygon: Vector, shape: tuple[int, int]) -> tuple[int, int, NDArray[np.bool_]]:
    """First row and column of a polygon's box in the slice, and the box: which centres are inside.

    By parity (even-odd): a centre is inside where an odd number of sides crosses its row to the
    left of it. polygon: (point, row and column). shape: (rows, columns) of the slice.
    """
    low = np.clip(np.ceil(polygon.min(axis=0)).astype(int), 0, shape)
    high = np.clip(np.floor(polygon.max(axis=0)).astype(int) + 1, low, shape)
    (rows, columns), (top, left) = high - low, low
    row, column = _crossings(polygon)
    column = np.clip(np.ceil(column).astype(int) - left, 0, columns)
    row = row - top
    kept = (row >= 0) & (row < rows)
    flips = np.bincount(row[kept] * (columns + 1) + column[kept], minlength=rows * (columns + 1))
    parity = np.cumsum(flips.reshape(rows, columns + 1)[:, :columns], axis=1) % 2
    return int(top), int(left), parity.astype(np.bool_)


def _crossings(polygon: Vector) -> tuple[NDArray[np.intp], Vector]:
    """Where the sides cross rows of pixel centres: the rows, and the columns there.

    A side holds its lower end and not its upper one, so that a corner on a row counts once.
    """
    (row, column), (next_row, next_column) = polygon.T, np.roll(polygon, -1, axis=0).T
    first = np.floor(np.minimum(row, next_row)).astype(int) + 1
    counts = np.maximum(np.floor(np.maximum(row, next_row)).astype(int) + 1 - first, 0)
    side = np.repeat(np.arange(len(polygon)), counts)
    within = np.arange(len(side)) - np.repeat(np.cumsum(counts) - counts, counts)
    rows = first[side] + within
    along = (rows - row[side]) / (next_row - row)[side]
    return rows, column[side] + along * (next_column - column)[side]
