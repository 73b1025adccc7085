"""Contours of an RT Structure Set: where the polygons of a slice lie in the patient, as bytes.

Encoded by hand: a Structure Set has ten thousands of contours with a million points in all, and a
pydicom value for each of their coordinates takes half a minute and a gigabyte.
"""

import struct
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.charset import convert_encodings, default_encoding
from pydicom.dataelem import RawDataElement
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.tag import Tag

from node.core.errors import Fatal
from node.dicom.elements import reference
from node.dicom.planes import Plane
from node.dicom.results.structure_set.outlines import Polygon

LONGEST_VALUE: Final = 65534  # bytes of a DS in Explicit VR, PS3.5 7.1.2
_DECIMAL_STRING = 16  # bytes of one of its values, PS3.5 6.2
_FINEST = 0.01  # of a pixel: how far rounding may move a point
_CONTOUR_SEQUENCE = Tag("ContourSequence")


@dataclass(frozen=True, eq=False)
class Slice:
    """Where the contours of one slice lie. image: the Contour Image Sequence, encoded.

    origin: centre of the first pixel; along_rows, along_columns: from one pixel to that of the next
    row or column; LPS mm.
    """

    image: bytes
    origin: NDArray[np.float64]
    along_rows: NDArray[np.float64]
    along_columns: NDArray[np.float64]
    decimals: int

    def points_mm(self, polygon: Polygon) -> NDArray[np.float64]:
        """(point, xyz), LPS."""
        points = (
            self.origin + polygon[:, :1] * self.along_rows + polygon[:, 1:] * self.along_columns
        )
        return np.round(points, self.decimals) + 0.0  # no −0

    def contour(self, polygon: Polygon) -> bytes:
        """An item of the Contour Sequence, PS3.3 C.8.8.6."""
        values = self.points_mm(polygon).ravel()
        pattern = "\\".join([f"%.{self.decimals}f"] * len(values))
        return _item(
            self.image
            + _element("ContourGeometricType", b"CS", b"CLOSED_PLANAR")
            + _element("NumberOfContourPoints", b"IS", str(len(polygon)).encode())
            + _element("ContourData", b"DS", (pattern % tuple(values)).encode())
        )

    def most_points(self, rows: int, columns: int) -> int:
        """How many points of this slice one Contour Data surely holds. Raises Fatal."""
        ends = np.array([[-1, -1], [-1, columns], [rows, -1], [rows, columns]], float)
        longest = max(len(f"{v:.{self.decimals}f}") for v in self.points_mm(ends).ravel())
        if longest > _DECIMAL_STRING:
            raise Fatal(f"the slice at {self.origin} mm lies too far away for a Decimal String")
        return LONGEST_VALUE // (3 * (longest + 1))


def slice_of(plane: Plane, instance: Dataset) -> Slice:
    """The Slice of a source plane, as its header states it. Raises Fatal."""
    if plane.position is None or plane.orientation is None or plane.pixel_spacing is None:
        raise Fatal(f"{plane} does not say where it lies: contours cannot lie on it")
    cosines = np.asarray(plane.orientation, float).reshape(2, 3)
    row_spacing, column_spacing = plane.pixel_spacing
    return Slice(
        _encoded(contour_image(plane, instance)),
        np.asarray(plane.position, float),
        cosines[1] * row_spacing,
        cosines[0] * column_spacing,
        max(3, int(np.ceil(-np.log10(min(plane.pixel_spacing) * _FINEST)))),
    )


def contour_image(plane: Plane, instance: Dataset) -> Dataset:
    """A data set with the Contour Image Sequence of a plane."""
    image, holder = reference(instance), Dataset()
    if plane.frame is not None:
        image.ReferencedFrameNumber = plane.frame
    holder.ContourImageSequence = [image]
    return holder


def contour_sequence(contours: list[bytes]) -> RawDataElement:
    """The Contour Sequence of one ROI from its items."""
    value = b"".join(contours)
    return RawDataElement(_CONTOUR_SEQUENCE, "SQ", len(value), value, 0, False, True)


def write_as_it_is(dataset: Dataset) -> None:
    """Keeps pydicom from taking the bytes apart in search of ambiguous VRs; there are none."""
    characters = dataset.get("SpecificCharacterSet")
    encoding = convert_encodings(characters) if characters else default_encoding
    dataset.set_original_encoding(
        is_implicit_vr=False, is_little_endian=True, character_encoding=encoding
    )


def _encoded(dataset: Dataset) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, dataset)
    return buffer.getvalue()


def _element(keyword: str, vr: bytes, value: bytes) -> bytes:
    """A short element in Explicit VR Little Endian, PS3.5 7.1.2; of even length."""
    tag, padded = Tag(keyword), value + b" " * (len(value) % 2)
    return struct.pack("<HH2sH", tag.group, tag.element, vr, len(padded)) + padded


def _item(content: bytes) -> bytes:
    """An item of explicit length, PS3.5 7.5.1."""
    return struct.pack("<HHL", 0xFFFE, 0xE000, len(content)) + content
