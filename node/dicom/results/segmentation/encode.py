"""From an Answer to DICOM Segmentations on the grid of its source Series (PS3.3 A.51, A.90).

The same input gives the same bytes, today and after any crash: UIDs are derived, times come in.
highdicom describes the Segments. Its Segmentation class is only the oracle of the tests: it stays
at 75 MB after its first use and reaches 115 MB on the way, in the process that receives.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from pydicom import Dataset
from pydicom.charset import convert_encodings, default_encoding
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    RLELossless,
    SegmentationStorage,
)

from node.core.errors import Fatal
from node.core.result import Compression, ObjectRef, ResultKind, SegForm, SegType
from node.core.uids import ResultUIDs
from node.core.volume import LabelMap
from node.dicom.elements import name_of, required
from node.dicom.planes import Plane
from node.dicom.results.answer import Answer, Piece, ResultObject
from node.dicom.results.context import (
    ORIENTATION_ASSUMED,
    RESEARCH_USE,
    caveats_of,
    copy_context,
    describe_series,
    identify,
    set_character_set,
    set_times,
    words_of,
)
from node.dicom.results.references import refer_to_predecessors, refer_to_source
from node.dicom.results.segmentation.contents import Part, parts_of
from node.dicom.results.segmentation.frames import (
    SourcePlane,
    per_frame_groups,
    set_dimensions,
    shared_groups,
)
from node.dicom.results.segmentation.pixels import bits_allocated, pixel_data
from node.dicom.results.segmentation.segments import background, descriptions
from node.dicom.volumes import place_tolerance_mm

MAXIMUM_FRACTIONAL_VALUE: Final = 255
SOP_CLASSES: Final[Mapping[SegType, UID]] = {
    SegType.BINARY: SegmentationStorage,
    SegType.LABELMAP: UID("1.2.840.10008.5.1.4.1.1.66.7"),  # Label Map Segmentation Storage
    SegType.FRACTIONAL: SegmentationStorage,
}
TRANSFER_SYNTAXES: Final[Mapping[Compression, UID]] = {
    Compression.NONE: ExplicitVRLittleEndian,
    Compression.RLE: RLELossless,
    Compression.DEFLATED: UID("1.2.840.10008.1.2.8.1"),  # Deflated Image Frame Compression
}


def encode_segmentations(answer: Answer, form: SegForm) -> list[ResultObject]:
    """The Segmentation of an Answer, each frame on the source plane it lies on.

    Frames go by segment, then plane; empty ones are omitted unless the form keeps them, and so are
    Segments without a voxel. One object, or several of one Series where the form limits frames.
    Raises Fatal where the labels or the headers forbid it, and where a FRACTIONAL one is asked for
    without probabilities.
    """
    sources = _in_slice_order(answer)
    return [_encode(answer, form, part, sources) for part in parts_of(answer, form)]


def _encode(
    answer: Answer, form: SegForm, part: Part, sources: Sequence[SourcePlane]
) -> ResultObject:
    """One object of them. What comes last in it is written as bytes: there is much of it."""
    uids = answer.uids(ResultKind.SEGMENTATION, form.name, part.number)
    ref = ObjectRef(
        ResultKind.SEGMENTATION,
        form.name,
        SOP_CLASSES[form.type],
        uids.series_instance_uid,
        uids.sop_instance_uid,
    )
    head = _file_head(_described(answer, form, part, sources, uids))
    groups = per_frame_groups(part.frames, sources)
    pieces: tuple[Piece, ...] = (head, groups, *pixel_data(answer, part, form))
    return ResultObject(ref, pieces, part.warnings)


def _described(
    answer: Answer, form: SegForm, part: Part, sources: Sequence[SourcePlane], uids: ResultUIDs
) -> Dataset:
    """Everything but the frames."""
    model, first = answer.model, sources[0].instance
    instances = list({id(one.instance): one.instance for one in sources}.values())
    caveats = caveats_of(answer.label_map.positions is not None, answer.verdict)
    dataset = Dataset()
    copy_context(dataset, first)
    identify(dataset, first, uids, SOP_CLASSES[form.type], TRANSFER_SYNTAXES[form.compression])
    describe_series(dataset, first, model, caveats, number=part.number)
    set_times(dataset, first, answer.created_at)
    set_character_set(dataset, first, words_of(model, part.segments))
    refer_to_source(dataset, instances, answer.further)
    refer_to_predecessors(dataset, answer.predecessors)
    _describe_image(dataset, answer, form, part)
    dataset.SegmentSequence = descriptions(part.segments, answer, caveats, form.type)
    if form.type is SegType.LABELMAP:
        dataset.SegmentSequence.insert(0, background(answer))
    set_dimensions(dataset, uids, form)
    dataset.SharedFunctionalGroupsSequence = [shared_groups(sources[0], answer.label_map)]
    return dataset


def _describe_image(dataset: Dataset, answer: Answer, form: SegForm, part: Part) -> None:
    """General Image and Segmentation Image Modules, PS3.3 C.8.20.2."""
    assumed = f"; {ORIENTATION_ASSUMED}" if answer.model.orientation_assumed else ""
    bits = bits_allocated(part, form)
    dataset.ContentLabel = "SEGMENTATION"
    dataset.ContentDescription = RESEARCH_USE + assumed
    dataset.ContentCreatorName = None
    dataset.ImageType = ["DERIVED", "PRIMARY"]
    dataset.SegmentationType = form.type.name
    dataset.SegmentsOverlap = "NO"
    dataset.NumberOfFrames = len(part.frames)
    dataset.Rows, dataset.Columns = answer.label_map.array.shape[1:]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PresentationLUTShape = "IDENTITY"
    dataset.BitsAllocated = bits
    dataset.BitsStored = bits
    dataset.HighBit = bits - 1
    dataset.PixelRepresentation = 0
    if form.type is SegType.LABELMAP:
        dataset.add_new("PixelPaddingValue", "US", 0)  # the background, PS3.3 C.7.5.1.1.2
    if form.type is SegType.FRACTIONAL:
        dataset.SegmentationFractionalType = "PROBABILITY"
        dataset.MaximumFractionalValue = MAXIMUM_FRACTIONAL_VALUE
        dataset.SegmentsOverlap = "UNDEFINED"
    if not dataset.get("LossyImageCompression"):
        dataset.LossyImageCompression = "00"


def _file_head(dataset: Dataset) -> bytes:
    """Preamble, File Meta Information (PS3.10 7.1) and all elements before those of the frames."""
    characters = dataset.get("SpecificCharacterSet")
    dataset.set_original_encoding(  # spares pydicom the search for ambiguous VRs; we have none
        is_implicit_vr=False,
        is_little_endian=True,
        character_encoding=convert_encodings(characters) if characters else default_encoding,
    )
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    buffer.write(b"\0" * 128 + b"DICM")
    write_file_meta_info(buffer, dataset.file_meta, enforce_standard=True)
    write_dataset(buffer, dataset)
    return buffer.getvalue()


def _in_slice_order(answer: Answer) -> list[SourcePlane]:
    """The plane of each slice of the label map, found by its position. Raises Fatal."""
    label_map = answer.label_map
    by_uid = {str(required(one, "SOPInstanceUID")): one for one in answer.source.instances}
    slices = label_map.slice_positions
    spacing = float(np.linalg.norm(label_map.affine[:3, 0]))
    allowed = place_tolerance_mm(answer.planes, spacing)
    by_slice: dict[int, SourcePlane] = {}
    for plane in answer.planes:
        instance = by_uid[plane.sop_instance_uid]
        _require_grid(plane, instance, label_map)
        off = np.linalg.norm(slices - np.asarray(plane.position), axis=1)
        index = int(np.argmin(off))
        if not off[index] <= allowed:
            raise Fatal(
                f"{plane} lies {off[index]:.2f} mm off: the planes of the Series do not lie on the "
                f"{len(slices)} slices of the label map"
            )
        if index in by_slice:
            other = by_slice[index].instance
            raise Fatal(f"{name_of(other)} and {name_of(instance)} lie on one slice")
        by_slice[index] = SourcePlane(instance, plane.frame)
    count = len(slices)
    if sorted(by_slice) != list(range(count)):
        raise Fatal(
            f"the {len(by_slice)} planes of the Series do not lie on the {count} slices "
            "of the label map"
        )
    return [by_slice[index] for index in range(count)]


def _require_grid(plane: Plane, instance: Dataset, label_map: LabelMap) -> None:
    if plane.position is None:
        raise Fatal(f"{plane} has no ImagePositionPatient: a Segmentation cannot lie on it")
    shape = (required(instance, "Rows"), required(instance, "Columns"))
    if shape != label_map.array.shape[1:]:
        raise Fatal(
            f"{name_of(instance)} has {shape[0]} × {shape[1]} pixels (rows, columns), the label "
            f"map {label_map.array.shape[1]} × {label_map.array.shape[2]}"
        )
    if required(instance, "FrameOfReferenceUID") != label_map.frame_of_reference_uid:
        raise Fatal(f"{name_of(instance)} is not in the label map's Frame of Reference")
