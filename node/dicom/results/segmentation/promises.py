"""What the headers of a Segmentation must say: whose it is, what it shows, in which form.

The second half of the gate (see verify.py); it shares nothing with the encoder either.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, RLELossless, SegmentationStorage

from node.core.anatomy import Segment
from node.core.model import Profile
from node.core.result import Compression, ObjectRef, ResultKind, SegForm, SegType
from node.dicom.results.answer import Answer
from node.dicom.results.gate import (
    letters,
    require_code,
    require_equal,
    require_same_patient,
)
from node.dicom.results.segmentation.decoded import DEFLATED_IMAGE_FRAME, Origin, Vector, wrong
from node.dicom.results.segmentation.references import require_references

Place = tuple[int, int]  # Segment Number, 0 in a LABELMAP, and slice

_LABEL_MAP_SEGMENTATION: Final = "1.2.840.10008.5.1.4.1.1.66.7"
_SYNTAX: Final[Mapping[Compression, str]] = {
    Compression.NONE: ExplicitVRLittleEndian,
    Compression.RLE: RLELossless,
    Compression.DEFLATED: DEFLATED_IMAGE_FRAME,
}


def require_identity(
    header: Dataset,
    ref: ObjectRef,
    answer: Answer,
    form: SegForm,
    number: int,
    positions: Mapping[Origin, Vector],
) -> None:
    """Same patient, study and Frame of Reference; its own UIDs; no reference to anything else."""
    known = {uid for uid, _ in positions}
    first = _first(answer, positions)
    require_same_patient(header, first, wrong)
    series = header.ReferencedSeriesSequence[0]  # which viewers take for the source
    uids = answer.uids(ResultKind.SEGMENTATION, form.name, number)
    label_map = form.type is SegType.LABELMAP
    sop_class = _LABEL_MAP_SEGMENTATION if label_map else SegmentationStorage
    require_equal(
        {
            "SOP Class": (header.SOPClassUID, sop_class),
            "Segmentation Type": (header.SegmentationType, form.type.value.upper()),
            "referenced Series": (series.SeriesInstanceUID, first.SeriesInstanceUID),
            "Frame of Reference": (header.FrameOfReferenceUID, first.FrameOfReferenceUID),
            "label map's Frame of Reference": (
                header.FrameOfReferenceUID,
                answer.label_map.frame_of_reference_uid,
            ),
            "Series": (header.SeriesInstanceUID, uids.series_instance_uid),
            "SOP Instance": (header.SOPInstanceUID, uids.sop_instance_uid),
            "Instance Number": (int(header.InstanceNumber), number),
            "reference": (ref, _ref(form, sop_class, answer, number)),
        },
        wrong,
    )
    require_references(header, answer, known)


def _first(answer: Answer, positions: Mapping[Origin, Vector]) -> Dataset:
    """The Instance that lies on the first slice of the label map."""
    start = answer.label_map.slice_positions[0]
    (uid, _) = min(positions, key=lambda origin: float(np.linalg.norm(positions[origin] - start)))
    return next(one for one in answer.source.instances if one.SOPInstanceUID == uid)


def _ref(form: SegForm, sop_class: str, answer: Answer, number: int) -> ObjectRef:
    uids = answer.uids(ResultKind.SEGMENTATION, form.name, number)
    kind, series = ResultKind.SEGMENTATION, uids.series_instance_uid
    return ObjectRef(kind, form.name, sop_class, series, uids.sop_instance_uid)


def require_segments(
    header: Dataset, left: Sequence[Segment], answer: Answer, form: SegForm
) -> Mapping[int, Segment]:
    """The Segments of one object by Segment Number: the next ones of those that are `left`."""
    items = list(header.SegmentSequence)
    if form.type is SegType.LABELMAP:
        _require_background(items.pop(0))
    if not 0 < len(items) <= len(left):
        raise wrong(f"it has {len(items)} Segments, not {len(left)}")
    expected = left[: len(items)]
    for number, (item, segment) in enumerate(zip(items, expected, strict=True), start=1):
        _require_segment(item, number, segment)
        _require_said(item, segment, form)
    _require_profile(header, items, answer.model.profile)
    return dict(enumerate(expected, start=1))


def _require_background(item: Dataset) -> None:
    (code,) = item.SegmentedPropertyTypeCodeSequence
    if (int(item.SegmentNumber), code.CodeValue) != (0, "125040"):
        raise wrong(f"its first Segment is {item.SegmentNumber}, and not the background")


def _require_segment(item: Dataset, number: int, segment: Segment) -> None:
    if int(item.SegmentNumber) != number:
        raise wrong(f"Segment {item.SegmentNumber} stands where Segment {number} should")
    if letters(str(item.SegmentLabel)) != letters(segment.label.strip()[:64]):
        raise wrong(f'Segment {number} is labelled "{item.SegmentLabel}", not "{segment.label}"')
    kind = item.SegmentedPropertyTypeCodeSequence
    for sequence, code in (
        (item.SegmentedPropertyCategoryCodeSequence, segment.category),
        (kind, segment.type),
        (item.get("AnatomicRegionSequence"), segment.region),
        (kind[0].get("SegmentedPropertyTypeModifierCodeSequence"), segment.laterality),
    ):
        require_code(sequence, code, f"Segment {number}", wrong)


def _require_said(item: Dataset, segment: Segment, form: SegForm) -> None:
    """A region's probability is that of the whole; the Segment of its rest must say so."""
    whole = form.type is SegType.FRACTIONAL and segment.covered
    if whole is not ("whole region" in str(item.get("SegmentDescription", ""))):
        raise wrong(f"Segment {item.SegmentNumber} does not say which part of a region it shows")


def _require_profile(header: Dataset, items: Sequence[Dataset], profile: Profile) -> None:
    """A profile that changes the answer is stated by each Segment and named by the Series."""
    expected = None if profile is Profile.EXACT else profile.value
    for item in items:
        stated = _stated_profile(item)
        if stated != expected:
            raise wrong(
                f"Segment {item.SegmentNumber} states the profile {stated or 'exact'}, but was "
                f"made with {profile}"
            )
    if expected and f"(profile {expected})" not in str(header.SeriesDescription):
        raise wrong(f"its Series Description does not name the profile {expected}")


def _stated_profile(segment: Dataset) -> str | None:
    """From the Algorithm Parameters, which are name=value, one after another (PS3.3 10.16)."""
    (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
    for parameter in str(algorithm.AlgorithmParameters).split(","):
        name, _, value = parameter.partition("=")
        if name == "profile":
            return value.partition(":")[0]
    return None


def require_form(
    header: Dataset,
    shown: Mapping[Place, bool],
    segments: Mapping[int, Segment],
    slices: int,
    form: SegForm,
) -> None:
    """What the form promises a viewer: type, compression, which frames, their order and number.

    shown: the place of each frame, in their order, and whether it is empty.
    """
    require_equal(dict(_stated_form(header, segments, form)), wrong)
    places = list(shown)
    if places != sorted(places):
        raise wrong("its frames do not go by segment, then plane")
    numbers = {0} if form.type is SegType.LABELMAP else set(segments)
    if {number for number, _ in places} != numbers:
        raise wrong("a Segment has no frame")
    if form.max_frames and len(segments) > 1 and len(places) > form.max_frames:
        raise wrong(f"it has {len(places)} frames, and {form.max_frames} are allowed")
    if form.empty_frames and len(places) != len(numbers) * slices:
        raise wrong(f"it has {len(places)} frames: empty ones are left out, and were to be kept")
    if not form.empty_frames:
        _require_no_empty(shown)


def _stated_form(
    header: Dataset, segments: Mapping[int, Segment], form: SegForm
) -> Iterator[tuple[str, tuple[object, object]]]:
    bits = 1 if form.type is SegType.BINARY else 8
    if form.type is SegType.LABELMAP and len(segments) > 255:
        bits = 16
    yield "Transfer Syntax", (header.file_meta.TransferSyntaxUID, _SYNTAX[form.compression])
    stated = (header.BitsAllocated, header.BitsStored, header.HighBit)
    yield "number of bits", (stated, (bits, bits, bits - 1))
    if form.type is SegType.LABELMAP:
        yield "Pixel Padding Value", (header.PixelPaddingValue, 0)
    if form.type is SegType.FRACTIONAL:
        yield "Fractional Type", (header.SegmentationFractionalType, "PROBABILITY")
        yield "Maximum Fractional Value", (header.MaximumFractionalValue, 255)


def _require_no_empty(shown: Mapping[Place, bool]) -> None:
    """A Segment of which nothing was found has one empty frame; no other frame is empty."""
    frames: dict[int, list[bool]] = {}
    for (number, _), empty in shown.items():
        frames.setdefault(number, []).append(empty)
    for number, empties in frames.items():
        if any(empties) and len(empties) > 1:
            raise wrong(f"Segment {number} has {sum(empties)} empty frames, to be left out")
