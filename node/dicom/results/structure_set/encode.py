"""From labels to an RT Structure Set that planning systems read (PS3.3 A.19).

A contour runs along the edges of the pixels of its Segment, on the source slice they lie on:
filling it by pixel centres gives the mask back, and its area is the mask's. Holes are joined to
their outline by a keyhole (C.8.8.6.3), the way that CLOSED_PLANAR has for them: nested contours
are read as holes by some systems and as solid by others, and CLOSEDPLANAR_XOR, which the Standard
added later, by few. No Contour Data is longer than 65534 bytes, which Explicit VR cannot hold: a
larger region is cut into contours that meet edge to edge. So any archive may write the object anew
in any transfer syntax.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from pydicom import Dataset
from pydicom.uid import UID, RTStructureSetStorage

from node.core.anatomy import Segment
from node.core.errors import Fatal
from node.core.model import Model
from node.core.result import ObjectRef, ResultKind
from node.dicom.elements import code_item, long_string, reference, required
from node.dicom.results.answer import Answer, ResultObject
from node.dicom.results.context import (
    ORIENTATION_ASSUMED,
    RESEARCH_USE,
    Caveat,
    SeriesKind,
    caveats_of,
    copy_context,
    describe_series,
    file_bytes,
    identify,
    profile_mark,
    set_character_set,
    set_times,
    words_of,
)
from node.dicom.results.structure_set.contours import contour_sequence, slice_of, write_as_it_is
from node.dicom.results.structure_set.outlines import outlines
from node.dicom.volumes import tolerance_mm

STRUCTURE_SETS: Final = SeriesKind("RTSTRUCT", 4000, "Structure set: ")
_STUDY_CLASS = UID("1.2.840.10008.3.1.2.3.1")  # Detached Study Management: what C.8.8.5.4 names
_LABEL_LENGTH = 16  # of an SH, PS3.5 6.2
_ANATOMICAL_STRUCTURES = ("91723000", "123037004")  # SNOMED CT categories of PS3.16 CID 7150
_OF_IMAGES = (  # that the context of a source holds
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)

Contours = Mapping[int, list[bytes]]


def encode_structure_set(answer: Answer) -> ResultObject:
    """An ROI with contours for each Segment that was found, on the slices of the source.

    Where none was found there is an ROI without contours for each Segment of the Model: "looked,
    and found nothing" is a result, and a Structure Set has at least one ROI.
    Raises Fatal where the labels or the headers forbid it.
    """
    uids = answer.uids(ResultKind.STRUCTURE_SET)
    instances = _instances(answer)
    contours = _contours(answer, instances)
    segments = _found(answer.model, contours)
    caveats = caveats_of(answer.label_map.positions is not None, answer.verdict)
    first, dataset = instances[0], Dataset()
    copy_context(dataset, first)
    identify(dataset, first, uids, RTStructureSetStorage)
    describe_series(dataset, first, answer.model, caveats, STRUCTURE_SETS)
    _set_times(dataset, first, answer.created_at)
    set_character_set(dataset, first, words_of(answer.model, segments))
    _describe(dataset, answer.model, caveats)
    _refer(dataset, answer, instances)
    frame_of_reference = str(dataset.FrameOfReferenceUID)
    numbered = list(enumerate(segments, start=1))
    dataset.StructureSetROISequence = [
        _roi(number, segment, answer.model, frame_of_reference) for number, segment in numbered
    ]
    dataset.ROIContourSequence = [
        _roi_contour(number, segment, contours) for number, segment in numbered
    ]
    dataset.RTROIObservationsSequence = [
        _observation(number, segment) for number, segment in numbered
    ]
    write_as_it_is(dataset)
    ref = ObjectRef(
        ResultKind.STRUCTURE_SET,
        "",
        RTStructureSetStorage,
        uids.series_instance_uid,
        uids.sop_instance_uid,
    )
    return ResultObject(ref, (file_bytes(dataset),))


def _instances(answer: Answer) -> list[Dataset]:
    """The Instance of each plane, after it was seen that the planes are the slices of the labels.

    Raises Fatal.
    """
    by_uid = {str(required(one, "SOPInstanceUID")): one for one in answer.source.instances}
    places = answer.label_map.slice_positions
    if len(answer.planes) != len(places):
        raise Fatal(f"{len(answer.planes)} planes for the {len(places)} slices of the label map")
    allowed = tolerance_mm(float(np.linalg.norm(answer.label_map.affine[:3, 0])))
    for plane, place in zip(answer.planes, places, strict=True):
        if (plane.rows, plane.columns) != answer.label_map.array.shape[1:]:
            raise Fatal(f"{plane} has {plane.rows} × {plane.columns} pixels, the label map other")
        if plane.frame_of_reference_uid != answer.label_map.frame_of_reference_uid:
            raise Fatal(f"{plane} is not in the label map's Frame of Reference")
        if plane.position is None or not np.linalg.norm(place - plane.position) <= allowed:
            raise Fatal(f"{plane} does not lie on the slice of the label map that it stands for")
    return [by_uid[plane.sop_instance_uid] for plane in answer.planes]


def _contours(answer: Answer, instances: Sequence[Dataset]) -> Contours:
    """Encoded contours by label; within each by slice, as the planes are sorted."""
    contours: dict[int, list[bytes]] = defaultdict(list)
    for labels, plane, one in zip(answer.label_map.array, answer.planes, instances, strict=True):
        place = slice_of(plane, one)
        for label, polygons in outlines(labels, place.most_points(*labels.shape)).items():
            contours[label] += [place.contour(polygon) for polygon in polygons]
    return contours


def _found(model: Model, contours: Contours) -> list[Segment]:
    """The Segments of the ROIs, in the Model's order. Raises Fatal for an unknown label."""
    unknown = set(contours) - {segment.number for segment in model.segments}
    if unknown:
        raise Fatal(
            f"label {min(unknown)} is in the label map, but {model.name} has no such Segment"
        )
    if not model.segments:
        raise Fatal(f"{model.name} has no Segments: there is nothing to encode")
    return [s for s in model.segments if not contours or s.number in contours]


def _set_times(dataset: Dataset, instance: Dataset, created_at: float) -> None:
    """A Structure Set has a date and time of its own name, and no Content Date (C.8.8.5)."""
    set_times(dataset, instance, created_at)
    dataset.StructureSetDate, dataset.StructureSetTime = dataset.ContentDate, dataset.ContentTime
    del dataset.ContentDate, dataset.ContentTime


def _describe(dataset: Dataset, model: Model, caveats: Sequence[Caveat]) -> None:
    """RT Series, Structure Set and Approval Modules, PS3.3 C.8.8.1, C.8.8.5, C.8.8.16."""
    assumed = [ORIENTATION_ASSUMED] * model.orientation_assumed
    said = [RESEARCH_USE, *assumed, *(f"{caveat.name}: {caveat.words}" for caveat in caveats)]
    for keyword in _OF_IMAGES:
        dataset.pop(keyword, None)
    dataset.OperatorsName = None
    dataset.StructureSetLabel = long_string(model.title)[:_LABEL_LENGTH].strip()
    dataset.StructureSetName = long_string(model.title, profile_mark(model))
    dataset.StructureSetDescription = "; ".join(said)
    dataset.ApprovalStatus = "UNAPPROVED"  # nobody has looked at it


def _refer(dataset: Dataset, answer: Answer, instances: Sequence[Dataset]) -> None:
    """To the source, as planning systems ask for it (C.8.8.5), and to its predecessors."""
    once = list({id(one): one for one in instances}.values())
    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = required(once[0], "SeriesInstanceUID")
    series.ContourImageSequence = [reference(one) for one in once]
    study.ReferencedSOPClassUID = _STUDY_CLASS
    study.ReferencedSOPInstanceUID = dataset.StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID = dataset.FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    dataset.ReferencedFrameOfReferenceSequence = [frame]
    earlier = [one for one in answer.predecessors if one.kind is ResultKind.STRUCTURE_SET]
    if earlier:
        dataset.PredecessorStructureSetSequence = [_named(one) for one in earlier]


def _named(ref: ObjectRef) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = ref.sop_class_uid
    item.ReferencedSOPInstanceUID = ref.sop_instance_uid
    return item


def _roi(number: int, segment: Segment, model: Model, frame_of_reference_uid: str) -> Dataset:
    """An item of the Structure Set ROI Sequence, C.8.8.5."""
    roi = Dataset()
    roi.ROINumber = number
    roi.ReferencedFrameOfReferenceUID = frame_of_reference_uid
    roi.ROIName = long_string(segment.label)
    roi.ROIGenerationAlgorithm = "AUTOMATIC"
    version = f"{model.title[:30]} {model.version[:8]} {model.fingerprint[:12]}"
    roi.ROIGenerationDescription = long_string(version, profile_mark(model))
    return roi


def _roi_contour(number: int, segment: Segment, contours: Contours) -> Dataset:
    """An item of the ROI Contour Sequence, C.8.8.6; its Contour Sequence is of Type 3."""
    roi = Dataset()
    roi.ReferencedROINumber = number
    roi.ROIDisplayColor = list(segment.colour)
    if contours:
        element = contour_sequence(contours[segment.number])
        roi[element.tag] = element
    write_as_it_is(roi)
    return roi


def _observation(number: int, segment: Segment) -> Dataset:
    """An item of the RT ROI Observations Sequence, C.8.8.8: what it is, and that nobody judged."""
    observation, kind = Dataset(), code_item(segment.type)
    observation.ObservationNumber = number
    observation.ReferencedROINumber = number
    if segment.laterality:  # PS3.16 CID 244
        kind.SegmentedPropertyTypeModifierCodeSequence = [code_item(segment.laterality)]
    if segment.region:
        observation.AnatomicRegionSequence = [code_item(segment.region)]
    observation.SegmentedPropertyCategoryCodeSequence = [code_item(segment.category)]
    observation.RTROIIdentificationCodeSequence = [kind]
    organ = segment.category.value in _ANATOMICAL_STRUCTURES
    observation.RTROIInterpretedType = "ORGAN" if organ else None
    observation.ROIInterpreter = None
    return observation
