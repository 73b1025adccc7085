"""The gate before delivery of an RT Structure Set: its contours are filled again.

Nothing here is shared with the encoder: headers are read with pydicom, points are brought back to
pixels by what the source's own headers say, and polygons are filled by parity.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import RTStructureSetStorage

from node.core.anatomy import Segment
from node.core.result import ResultKind
from node.dicom.results.answer import Answer, ResultObject
from node.dicom.results.gate import (
    letters,
    parsed,
    require_code,
    require_equal,
    require_same_patient,
)
from node.dicom.results.structure_set.refilling import paint, source_slices, wrong_structure_set


def verify_structure_set(structure_set: ResultObject, answer: Answer) -> None:
    """Whether the contours, filled, are the label map, voxel for voxel, on the source's slices.

    A point of a contour lies half a pixel from any pixel centre and is rounded by a hundredth of
    one at most, so not one voxel may differ. Contours of one ROI may not overlap: then union and
    XOR of them are the same, whichever a reader takes.
    Raises Fatal saying which ROI, contour or voxel is wrong: a bug of ours.
    """
    dataset = parsed(structure_set.content, wrong_structure_set)
    try:
        _require_identity(dataset, structure_set, answer)
        segments = _require_rois(dataset, answer)
        _require_references(dataset, answer)
        slices = source_slices(answer)
        painted = np.zeros_like(answer.label_map.array)
        for roi in dataset.ROIContourSequence:
            number = int(roi.ReferencedROINumber)
            for contour in roi.get("ContourSequence") or []:
                paint(painted, contour, segments[number].number, slices, f"ROI {number}")
        _require_equal(painted, answer.label_map.array, segments)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise wrong_structure_set(f"it lacks what a Structure Set must have: {error!r}") from error


def dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """2 |A ∩ B| / (|A| + |B|); 1 where both are empty."""
    total = np.count_nonzero(one) + np.count_nonzero(other)
    return 2.0 * np.count_nonzero(one & other) / total if total else 1.0


def _require_equal(
    painted: NDArray[np.generic], expected: NDArray[np.generic], segments: Mapping[int, Segment]
) -> None:
    if np.array_equal(painted, expected):
        return
    for number, segment in segments.items():
        one, other = painted == segment.number, expected == segment.number
        if not np.array_equal(one, other):
            wrong = np.argwhere(one != other)
            at = tuple(int(index) for index in wrong[0])
            raise wrong_structure_set(
                f"ROI {number}, filled, differs from the label map in {len(wrong)} voxels (Dice "
                f"{dice(one, other):.4f}); the first is (slice, row, column) {at}"
            )


def _require_identity(dataset: Dataset, structure_set: ResultObject, answer: Answer) -> None:
    """Its own names, and the patient, study and Frame of Reference of the source."""
    require_same_patient(dataset, answer.first, wrong_structure_set)
    (frame,) = dataset.ReferencedFrameOfReferenceSequence
    ref, reference_uid = structure_set.ref, answer.label_map.frame_of_reference_uid
    uids = answer.uids(ResultKind.STRUCTURE_SET)
    stated = {
        "SOP Class": (dataset.SOPClassUID, RTStructureSetStorage),
        "SOP Class by name": (ref.sop_class_uid, RTStructureSetStorage),
        "SOP Instance": (dataset.SOPInstanceUID, uids.sop_instance_uid),
        "SOP Instance by name": (ref.sop_instance_uid, uids.sop_instance_uid),
        "Series": (dataset.SeriesInstanceUID, uids.series_instance_uid),
        "Series by name": (ref.series_instance_uid, uids.series_instance_uid),
        "Frame of Reference": (dataset.FrameOfReferenceUID, reference_uid),
        "referenced Frame of Reference": (frame.FrameOfReferenceUID, reference_uid),
    }
    require_equal(stated, wrong_structure_set)


def _require_references(dataset: Dataset, answer: Answer) -> None:
    """All Instances the labels lie on, the sets that this one replaces, and no other."""
    (frame,) = dataset.ReferencedFrameOfReferenceSequence
    (study,) = frame.RTReferencedStudySequence
    (series,) = study.RTReferencedSeriesSequence
    named = [str(image.ReferencedSOPInstanceUID) for image in series.ContourImageSequence]
    used = {plane.sop_instance_uid for plane in answer.planes}
    if len(named) != len(used) or set(named) != used:
        raise wrong_structure_set("the Instances it refers to are not those of the source")
    earlier = [
        (ref.sop_class_uid, str(ref.sop_instance_uid))
        for ref in answer.predecessors
        if ref.kind is ResultKind.STRUCTURE_SET
    ]
    before = dataset.get("PredecessorStructureSetSequence") or []
    named_before = [
        (str(one.ReferencedSOPClassUID), str(one.ReferencedSOPInstanceUID)) for one in before
    ]
    if named_before != earlier:
        raise wrong_structure_set("it does not name the Structure Sets that it replaces")
    own = {str(one.SeriesInstanceUID) for one in answer.source.instances}
    if series.SeriesInstanceUID not in own or study.ReferencedSOPInstanceUID != (
        dataset.StudyInstanceUID
    ):
        raise wrong_structure_set("it refers to another Series or Study than the source's")


def _require_rois(dataset: Dataset, answer: Answer) -> Mapping[int, Segment]:
    """The Segments by ROI Number: those with voxels, or all of the Model where there are none."""
    labels: set[int] = set().union(*(np.unique(p).tolist() for p in answer.label_map.array)) - {0}
    expected = [s for s in answer.model.segments if not labels or s.number in labels]
    rois, contours = dataset.StructureSetROISequence, dataset.ROIContourSequence
    observations = dataset.RTROIObservationsSequence
    if not len(rois) == len(contours) == len(observations) == len(expected):
        raise wrong_structure_set(f"it has {len(rois)} ROIs, not {len(expected)}")
    for number, (segment, roi, contour, observation) in enumerate(
        zip(expected, rois, contours, observations, strict=True), start=1
    ):
        numbers = (roi.ROINumber, contour.ReferencedROINumber, observation.ReferencedROINumber)
        if any(int(found) != number for found in numbers):
            raise wrong_structure_set(f"ROI {numbers} stands where ROI {number} should")
        _require_roi(roi, contour, observation, segment)
        if roi.ReferencedFrameOfReferenceUID != dataset.FrameOfReferenceUID:
            raise wrong_structure_set(f"ROI {number} is in another Frame of Reference")
    return dict(enumerate(expected, start=1))


def _require_roi(roi: Dataset, contour: Dataset, observation: Dataset, segment: Segment) -> None:
    number = roi.ROINumber
    if letters(str(roi.ROIName)) != letters(segment.label.strip()[:64]):
        raise wrong_structure_set(f'ROI {number} is named "{roi.ROIName}", not "{segment.label}"')
    if tuple(int(value) for value in contour.ROIDisplayColor) != segment.colour:
        raise wrong_structure_set(f"ROI {number} has the colour {contour.ROIDisplayColor}")
    if roi.ROIGenerationAlgorithm != "AUTOMATIC":
        raise wrong_structure_set(f"ROI {number} does not say that it was made automatically")
    kind = observation.RTROIIdentificationCodeSequence
    for sequence, code in (
        (observation.SegmentedPropertyCategoryCodeSequence, segment.category),
        (kind, segment.type),
        (observation.get("AnatomicRegionSequence"), segment.region),
        (kind[0].get("SegmentedPropertyTypeModifierCodeSequence"), segment.laterality),
    ):
        require_code(sequence, code, f"ROI {number}", wrong_structure_set)
