"""The frames of a Segmentation: which plane of which Segment, where it lies, and its bits."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from pydicom import DataElement, Dataset
from pydicom.charset import convert_encodings, default_encoding
from pydicom.dataelem import RawDataElement
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.tag import Tag
from pydicom.valuerep import DSfloat

from node.core.anatomy import Code
from node.core.uids import ResultUIDs, derive_uid
from node.core.volume import LabelMap
from node.dicom.elements import code_item, reference, stated

_SEGMENTATION = Code("113076", "DCM", "Segmentation")  # CID 7203
_SOURCE_IMAGE = Code("121322", "DCM", "Source image for image processing operation")  # CID 7202


@dataclass(frozen=True)
class Frame:
    """One plane of one Segment. segment_number: in the Segmentation, 1 to n."""

    segment_number: int
    label: int
    slice_index: int


def set_dimensions(dataset: Dataset, uids: ResultUIDs) -> None:
    """Frames are told apart by segment, then by position (PS3.3 C.7.6.17)."""
    organization = Dataset()
    organization.DimensionOrganizationUID = derive_uid("dimensions", uids.sop_instance_uid)
    dataset.DimensionOrganizationSequence = [organization]
    dataset.DimensionIndexSequence = [
        _dimension(organization, "SegmentIdentificationSequence", "ReferencedSegmentNumber"),
        _dimension(organization, "PlanePositionSequence", "ImagePositionPatient"),
    ]


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


def per_frame_groups(frames: Sequence[Frame], sources: Sequence[SourcePlane]) -> list[Dataset]:
    """The Per-Frame Functional Groups, PS3.3 A.51.5: which Segment, which plane."""
    slices = sorted({frame.slice_index for frame in frames})
    order = {index: place for place, index in enumerate(slices, start=1)}
    planes = {index: _plane_groups(sources[index]) for index in slices}
    groups = []
    for frame in frames:
        content, segment, item = Dataset(), Dataset(), Dataset()
        content.DimensionIndexValues = [frame.segment_number, order[frame.slice_index]]
        segment.ReferencedSegmentNumber = frame.segment_number
        item.FrameContentSequence = [content]
        item.SegmentIdentificationSequence = [segment]
        for element in planes[frame.slice_index]:
            item[element.tag] = element
        write_as_it_is(item)
        groups.append(item)
    return groups


def _plane_groups(source: SourcePlane) -> list[DataElement | RawDataElement]:
    """Where a plane lies and which Instance it was made from: viewers match frames by both.

    As bytes: encoded once for the frames of all Segments there, 1 ms each time.
    """
    position, derivation, groups = Dataset(), Dataset(), Dataset()
    position.add(source.stated("PlanePositionSequence", "ImagePositionPatient"))
    origin = reference(source.instance)
    if source.frame is not None:
        origin.ReferencedFrameNumber = source.frame
    origin.SpatialLocationsPreserved = "YES"
    origin.PurposeOfReferenceCodeSequence = [code_item(_SOURCE_IMAGE)]
    derivation.SourceImageSequence = [origin]
    derivation.DerivationCodeSequence = [code_item(_SEGMENTATION)]
    groups.PlanePositionSequence = [position]
    groups.DerivationImageSequence = [derivation]
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, groups)
    encoded = read_dataset(BytesIO(buffer.getvalue()), is_implicit_VR=False, is_little_endian=True)
    return [encoded.get_item(element.tag) for element in groups]


def write_as_it_is(dataset: Dataset) -> None:
    """Spares pydicom the search for ambiguous VRs, of which we have none: four times faster."""
    characters = dataset.get("SpecificCharacterSet")
    encoding = convert_encodings(characters) if characters else default_encoding
    dataset.set_original_encoding(
        is_implicit_vr=False, is_little_endian=True, character_encoding=encoding
    )


def packed(masks: Iterable[NDArray[np.bool_]]) -> bytes:
    """All frames as one run of bits, lowest bit first, without a gap between frames; even length.

    The rule is PS3.5 8.1.1; a frame whose pixels are no multiple of 8 shares a byte with the next.
    """
    packed, rest = [], np.empty(0, np.bool_)
    for mask in masks:
        bits = np.concatenate([rest, mask.ravel()])
        whole = bits.size // 8 * 8
        packed.append(np.packbits(bits[:whole], bitorder="little").tobytes())
        rest = bits[whole:]
    packed.append(np.packbits(rest, bitorder="little").tobytes())
    joined = b"".join(packed)
    return joined + b"\0" * (len(joined) % 2)
