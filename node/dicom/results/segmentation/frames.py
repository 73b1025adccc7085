"""The Functional Groups of a Segmentation: which plane of which Segment a frame is, where it lies.

Tens of thousands of frames are written as bytes: what frames have in common is encoded once, and a
Dataset for each would take a minute and a gigabyte.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from pydicom import DataElement, Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.tag import Tag
from pydicom.valuerep import DSfloat

from node.core.anatomy import Code
from node.core.result import SegForm, SegType
from node.core.uids import ResultUIDs, derive_uid
from node.core.volume import LabelMap
from node.dicom.elements import code_item, reference, stated
from node.dicom.results.segmentation.contents import Frame

_SEGMENTATION = Code("113076", "DCM", "Segmentation")  # CID 7203
_SOURCE_IMAGE = Code("121322", "DCM", "Source image for image processing operation")  # CID 7202
_PER_FRAME: Final = (0x5200, 0x9230)  # Per-Frame Functional Groups Sequence
_FRAME_CONTENT: Final = (0x0020, 0x9111)
_DIMENSION_INDEX_VALUES: Final = (0x0020, 0x9157)
_ITEM: Final = (0xFFFE, 0xE000)


def set_dimensions(dataset: Dataset, uids: ResultUIDs, form: SegForm) -> None:
    """Frames are told apart by segment, then by position (PS3.3 C.7.6.17)."""
    organization = Dataset()
    organization.DimensionOrganizationUID = derive_uid("dimensions", uids.sop_instance_uid)
    dataset.DimensionOrganizationSequence = [organization]
    indices = [
        _dimension(organization, "SegmentIdentificationSequence", "ReferencedSegmentNumber"),
        _dimension(organization, "PlanePositionSequence", "ImagePositionPatient"),
    ]
    dataset.DimensionIndexSequence = indices[form.type is SegType.LABELMAP :]


def _dimension(organization: Dataset, group: str, keyword: str) -> Dataset:
    dimension = Dataset()
    dimension.DimensionOrganizationUID = organization.DimensionOrganizationUID
    dimension.DimensionIndexPointer = Tag(keyword)
    dimension.FunctionalGroupPointer = Tag(group)
    dimension.DimensionDescriptionLabel = keyword
    return dimension


@dataclass(frozen=True, eq=False)
class SourcePlane:
    """What a slice of labels lies on. frame: 1 to n of a multi-frame Instance."""

    instance: Dataset
    frame: int | None

    def stated(self, group: str, keyword: str) -> DataElement:
        """An element of the plane, as the source states it. Raises Fatal."""
        return stated(self.instance, self.frame, group, keyword)


def shared_groups(plane: SourcePlane, label_map: LabelMap) -> Dataset:
    """Orientation and spacing of all frames, as the first plane states them."""
    orientation, measures = Dataset(), Dataset()
    orientation.add(plane.stated("PlaneOrientationSequence", "ImageOrientationPatient"))
    measures.add(plane.stated("PixelMeasuresSequence", "PixelSpacing"))
    between, thickness = _slice_spacing_mm(label_map)
    if between is not None:
        measures.SpacingBetweenSlices = DSfloat(between, auto_format=True)
    measures.SliceThickness = DSfloat(thickness, auto_format=True)  # of the result: no gaps
    shared = Dataset()
    shared.PlaneOrientationSequence = [orientation]
    shared.PixelMeasuresSequence = [measures]
    return shared


def _slice_spacing_mm(label_map: LabelMap) -> tuple[float | None, float]:
    """Spacing Between Slices, along the normal (PS3.3 C.7.6.16.2.1), and a thickness.

    Unevenly spaced slices have no such spacing; the closest two of them say how thick they are.
    """
    if label_map.positions is None:
        spacing = float(np.linalg.norm(label_map.affine[:3, 0]))
        return spacing, spacing
    normal = np.cross(label_map.affine[:3, 2], label_map.affine[:3, 1])
    gaps = np.abs(np.diff(label_map.positions @ (normal / np.linalg.norm(normal))))
    mean = float(gaps.mean())
    even = bool((np.abs(gaps - mean) <= max(0.01 * mean, 0.02)).all())
    return (mean if even else None), (mean if even else float(gaps.min()))


def per_frame_groups(frames: Sequence[Frame], sources: Sequence[SourcePlane]) -> bytes:
    """The Per-Frame Functional Groups Sequence, PS3.3 A.51.5: which Segment, which plane."""
    slices = sorted({frame.slice_index for frame in frames})
    order = {index: place for place, index in enumerate(slices, start=1)}
    planes = {index: _plane_groups(sources[index]) for index in slices}
    segments = {number: _segment_group(number) for number in {f.segment_number for f in frames}}
    items = []
    for frame in frames:
        derivation, position = planes[frame.slice_index]
        place = order[frame.slice_index]
        numbers = [place] if frame.segment_number is None else [frame.segment_number, place]
        content = _sequence(
            _FRAME_CONTENT, _item(_unsigned_longs(_DIMENSION_INDEX_VALUES, numbers))
        )
        items.append(_item(derivation + content + position + segments[frame.segment_number]))
    return _sequence(_PER_FRAME, b"".join(items))


def _plane_groups(source: SourcePlane) -> tuple[bytes, bytes]:
    """Which Instance a plane was made from, and where it lies: viewers match frames by both."""
    position, derivation = Dataset(), Dataset()
    position.add(source.stated("PlanePositionSequence", "ImagePositionPatient"))
    origin = reference(source.instance)
    if source.frame is not None:
        origin.ReferencedFrameNumber = source.frame
    origin.SpatialLocationsPreserved = "YES"
    origin.PurposeOfReferenceCodeSequence = [code_item(_SOURCE_IMAGE)]
    derivation.SourceImageSequence = [origin]
    derivation.DerivationCodeSequence = [code_item(_SEGMENTATION)]
    return _group("DerivationImageSequence", derivation), _group("PlanePositionSequence", position)


def _segment_group(number: int | None) -> bytes:
    """The frames of a LABELMAP show all Segments, and name none."""
    if number is None:
        return b""
    segment = Dataset()
    segment.ReferencedSegmentNumber = number
    return _group("SegmentIdentificationSequence", segment)


def _group(keyword: str, item: Dataset) -> bytes:
    """A functional group in Explicit VR Little Endian."""
    dataset = Dataset()
    setattr(dataset, keyword, [item])
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, dataset)
    return buffer.getvalue()


def _sequence(tag: tuple[int, int], items: bytes) -> bytes:
    """PS3.5 7.5 and 7.1.2, of defined length."""
    return struct.pack("<HH2sHL", *tag, b"SQ", 0, len(items)) + items


def _item(elements: bytes) -> bytes:
    return struct.pack("<HHL", *_ITEM, len(elements)) + elements


def _unsigned_longs(tag: tuple[int, int], values: Sequence[int]) -> bytes:
    return struct.pack(f"<HH2sH{len(values)}L", *tag, b"UL", 4 * len(values), *values)
