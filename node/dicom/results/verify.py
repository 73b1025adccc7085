"""The gate before delivery: a Segmentation is decoded again and compared with its label map.

Nothing here is shared with the encoder. Headers are read with pydicom; bits are unpacked, and
frames placed by their millimetres, by code of this file.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.uid import SegmentationStorage

from node.core.anatomy import Code, Segment
from node.core.errors import Fatal
from node.core.model import Model, Profile
from node.core.volume import LabelMap
from node.dicom.planes import Plane
from node.dicom.series import SourceSeries
from node.dicom.volumes import tolerance_mm

POSITION_TOLERANCE_MM = 0.01

Vector = NDArray[np.float64]
Origin = tuple[str, int | None]


@dataclass(frozen=True, eq=False)
class Frame:
    """One plane of one Segment, as the Segmentation states it.

    number: 1 to n. position: centre of the first voxel, LPS mm. sources: the SOP Instance UIDs it
    was derived from, with the frame of a multi-frame one. mask: (row, column).
    """

    number: int
    segment_number: int
    position: Vector
    sources: tuple[Origin, ...]
    mask: NDArray[np.bool_]

    def __str__(self) -> str:
        return f"frame {self.number} (Segment {self.segment_number})"


def verify(
    segmentation: bytes,
    against: LabelMap,
    model: Model,
    source: SourceSeries,
    planes: Sequence[Plane] | None = None,
) -> None:
    """Whether the file says exactly what the label map says, on the planes of the source Series.

    Every voxel must agree, every frame must lie within 0.01 mm of the source plane it refers to.
    planes: those the labels were made of; all of the source by default.
    Raises Fatal saying which Segment, frame or voxel is wrong: a bug of ours.
    """
    dataset = _read(segmentation)
    try:
        wanted = None if planes is None else {(p.sop_instance_uid, p.frame) for p in planes}
        positions = _source_positions(source, wanted)
        _require_identity(dataset, against, source, positions)
        segments = _require_segments(dataset, against, model)
        _require_profile(dataset, model.profile)
        _require_grid(dataset, against)
        _require_equal(_painted(dataset, against, segments, positions), against)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise _wrong(f"it lacks what a Segmentation must have: {error!r}") from error


def frames(segmentation: Dataset) -> Iterator[Frame]:
    """The frames of a BINARY Segmentation in their order. Raises Fatal where bits are missing."""
    size = int(segmentation.Rows) * int(segmentation.Columns)
    data = _pixel_data(segmentation, size)
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    for index, groups in enumerate(segmentation.PerFrameFunctionalGroupsSequence):
        identification = _group(groups, shared, "SegmentIdentificationSequence")
        position = _group(groups, shared, "PlanePositionSequence").ImagePositionPatient
        yield Frame(
            number=index + 1,
            segment_number=int(identification.ReferencedSegmentNumber),
            position=np.asarray(position, float),
            sources=tuple(_sources(groups)),
            mask=_bits(data, index * size, size).reshape(segmentation.Rows, segmentation.Columns),
        )


def segment_volumes_ml(segmentation: Dataset) -> dict[str, float]:
    """Volume of each Segment by its label, ml, from the Segmentation alone."""
    measures = segmentation.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    voxel_mm3 = float(np.prod(np.asarray(measures.PixelSpacing, float)))
    voxel_mm3 *= float(measures.SpacingBetweenSlices)
    labels = {int(s.SegmentNumber): str(s.SegmentLabel) for s in segmentation.SegmentSequence}
    volumes = dict.fromkeys(labels.values(), 0.0)
    for frame in frames(segmentation):
        ml = int(np.count_nonzero(frame.mask)) * voxel_mm3 / 1000.0
        volumes[labels[frame.segment_number]] += ml
    return volumes


def _read(segmentation: bytes) -> Dataset:
    try:
        return dcmread(BytesIO(segmentation))
    except Exception as error:  # broken bytes make the parser raise almost anything
        raise _wrong(f"it cannot be parsed: {error!r}") from error


def _group(groups: Dataset, shared: Dataset, keyword: str) -> Dataset:
    """A functional group of one frame: its own, or that of all frames (PS3.3 C.7.6.16)."""
    item: Dataset = getattr(groups if keyword in groups else shared, keyword)[0]
    return item


def _sources(groups: Dataset) -> Iterator[Origin]:
    for derivation in groups.DerivationImageSequence:
        for image in derivation.SourceImageSequence:
            number = image.get("ReferencedFrameNumber")
            yield str(image.ReferencedSOPInstanceUID), None if number is None else int(number)


def _source_positions(source: SourceSeries, wanted: set[Origin] | None) -> dict[Origin, Vector]:
    """Where each plane of the source lies, LPS mm, as its header states it."""
    positions = {}
    for instance in source.instances:
        uid = str(instance.SOPInstanceUID)
        frames = instance.get("PerFrameFunctionalGroupsSequence")
        if frames is None:
            places: dict[Origin, Dataset] = {(uid, None): instance}
        else:
            shared = (instance.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
            places = {
                (uid, number): _group(groups, shared, "PlanePositionSequence")
                for number, groups in enumerate(frames, start=1)
                if wanted is None or (uid, number) in wanted
            }
        for origin, place in places.items():
            if wanted is None or origin in wanted:
                positions[origin] = np.asarray(place.ImagePositionPatient, float)
    return positions


def _pixel_data(segmentation: Dataset, size: int) -> NDArray[np.uint8]:
    """The packed bits, after their number was checked: one bit a voxel, even length (PS3.5 8.1)."""
    count = len(segmentation.PerFrameFunctionalGroupsSequence)
    if int(segmentation.NumberOfFrames) != count:
        raise _wrong(f"{segmentation.NumberOfFrames} frames are announced, {count} described")
    data = np.frombuffer(segmentation.PixelData, np.uint8)
    length = -(-count * size // 8)
    if segmentation.BitsAllocated != 1 or data.size != length + length % 2:
        raise _wrong(f"its Pixel Data has {data.size} bytes, {count} frames need {length}")
    if _bits(data, count * size, data.size * 8 - count * size).any():
        raise _wrong("bits are set behind the last frame")
    return data


def _bits(data: NDArray[np.uint8], first: int, count: int) -> NDArray[np.bool_]:
    """`count` bits from the bit `first`, where bit 0 is the lowest of byte 0 (PS3.5 8.1.1)."""
    packed = data[first // 8 : -(-(first + count) // 8)]
    return np.unpackbits(packed, bitorder="little")[first % 8 :][:count].astype(np.bool_)


def _require_identity(
    dataset: Dataset,
    against: LabelMap,
    source: SourceSeries,
    positions: Mapping[Origin, Vector],
) -> None:
    """Same patient, study, Series and Frame of Reference; no reference to anything else."""
    known = {uid for uid, _ in positions}
    first = next(one for one in source.instances if one.SOPInstanceUID in known)
    for keyword in ("PatientID", "PatientName"):
        if str(dataset.get(keyword) or "").strip() != str(first.get(keyword) or "").strip():
            raise _wrong(f"its {keyword} is not the source's")  # and no name goes to the log
    (series,) = dataset.ReferencedSeriesSequence
    stated = {
        "SOP Class": (dataset.SOPClassUID, SegmentationStorage),
        "Segmentation Type": (dataset.SegmentationType, "BINARY"),
        "Study": (dataset.StudyInstanceUID, first.StudyInstanceUID),
        "referenced Series": (series.SeriesInstanceUID, first.SeriesInstanceUID),
        "Frame of Reference": (dataset.FrameOfReferenceUID, first.FrameOfReferenceUID),
        "label map's Frame of Reference": (
            dataset.FrameOfReferenceUID,
            against.frame_of_reference_uid,
        ),
    }
    for name, (found, expected) in stated.items():
        if found != expected:
            raise _wrong(f"its {name} is {found}, not {expected}")
    for reference in (*series.ReferencedInstanceSequence, *dataset.SourceImageSequence):
        if reference.ReferencedSOPInstanceUID not in known:
            raise _wrong(f"{reference.ReferencedSOPInstanceUID} is not in the source Series")


def _require_segments(dataset: Dataset, against: LabelMap, model: Model) -> Mapping[int, Segment]:
    """The Model's Segments by Segment Number: those with voxels, or all where there are none."""
    labels: set[int] = set().union(*(np.unique(plane).tolist() for plane in against.array)) - {0}
    unknown = labels - {segment.number for segment in model.segments}
    if unknown:
        raise _wrong(f"label {min(unknown)} of the label map is no Segment of {model.name}")
    expected = [s for s in model.segments if not labels or s.number in labels]
    if len(dataset.SegmentSequence) != len(expected):
        raise _wrong(f"it has {len(dataset.SegmentSequence)} Segments, not {len(expected)}")
    for number, (item, segment) in enumerate(
        zip(dataset.SegmentSequence, expected, strict=True), start=1
    ):
        _require_segment(item, number, segment)
    return dict(enumerate(expected, start=1))


def _require_segment(item: Dataset, number: int, segment: Segment) -> None:
    if int(item.SegmentNumber) != number:
        raise _wrong(f"Segment {item.SegmentNumber} stands where Segment {number} should")
    if _letters(str(item.SegmentLabel)) != _letters(segment.label.strip()[:64]):
        raise _wrong(f'Segment {number} is labelled "{item.SegmentLabel}", not "{segment.label}"')
    for sequence, code in (
        (item.SegmentedPropertyCategoryCodeSequence, segment.category),
        (item.SegmentedPropertyTypeCodeSequence, segment.type),
    ):
        _require_code(sequence, code, number)


def _require_profile(dataset: Dataset, profile: Profile) -> None:
    """A profile that changes the answer is stated by each Segment and named by the Series."""
    expected = None if profile is Profile.EXACT else profile.value
    for item in dataset.SegmentSequence:
        stated = _stated_profile(item)
        if stated != expected:
            raise _wrong(
                f"Segment {item.SegmentNumber} states the profile {stated or 'exact'}, but was "
                f"made with {profile}"
            )
    if expected and f"(profile {expected})" not in str(dataset.SeriesDescription):
        raise _wrong(f"its Series Description does not name the profile {expected}")


def _stated_profile(segment: Dataset) -> str | None:
    """From the Algorithm Parameters, which are name=value, one after another (PS3.3 10.16)."""
    (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
    for parameter in str(algorithm.AlgorithmParameters).split(","):
        name, _, value = parameter.partition("=")
        if name == "profile":
            return value.partition(":")[0]
    return None


def _require_code(sequence: Sequence[Dataset], code: Code, number: int) -> None:
    (item,) = sequence
    value = item.get("CodeValue") or item.get("LongCodeValue") or item.get("URNCodeValue")
    if (value, item.CodingSchemeDesignator) != (code.value, code.scheme):
        raise _wrong(f"Segment {number} is coded {value}, not {code.value} ({code.meaning})")


def _letters(text: str) -> str:
    """What an LO cannot hold, and the encoder replaces, does not count."""
    return "".join(character for character in text if character.isalnum())


def _require_grid(dataset: Dataset, against: LabelMap) -> None:
    """One shared orientation and spacing that carry every voxel of a plane to its place, mm."""
    if (dataset.Rows, dataset.Columns) != against.array.shape[1:]:
        raise _wrong(f"its planes are {dataset.Rows} × {dataset.Columns}")
    shared = dataset.SharedFunctionalGroupsSequence[0]
    measures = shared.PixelMeasuresSequence[0]
    cosines = np.asarray(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    row_spacing, column_spacing = (float(value) for value in measures.PixelSpacing)
    slice_axis = against.affine[:3, 0]
    along_slices = slice_axis  # of slices that have places of their own each frame is checked
    if against.positions is None:
        unit = slice_axis / np.linalg.norm(slice_axis)
        along_slices = unit * float(measures.SpacingBetweenSlices)
    steps = np.stack([along_slices, cosines[3:] * row_spacing, cosines[:3] * column_spacing], 1)
    counts = np.maximum(np.asarray(against.array.shape) - 1, 1)
    off = np.linalg.norm((steps - against.affine[:3, :3]) * counts, axis=0)
    for axis, distance in zip(("slices", "rows", "columns"), off, strict=True):
        if not distance <= POSITION_TOLERANCE_MM:
            raise _wrong(
                f"its orientation or spacing puts the last of the {axis} {distance:.3f} mm off"
            )


def _painted(
    dataset: Dataset,
    against: LabelMap,
    segments: Mapping[int, Segment],
    positions: Mapping[Origin, Vector],
) -> NDArray[np.generic]:
    """Labels as the frames state them, in the label map's grid. Raises Fatal."""
    painted = np.zeros_like(against.array)
    seen = set()
    for frame in frames(dataset):
        _require_on_source(frame, positions)
        index = _slice_index(frame, against)
        if frame.segment_number not in segments or (frame.segment_number, index) in seen:
            raise _wrong(f"{frame} on slice {index} is of an unknown Segment, or there twice")
        seen.add((frame.segment_number, index))
        _paint(painted[index], frame, segments[frame.segment_number].number)
    if {number for number, _ in seen} != set(segments):
        raise _wrong("a Segment has no frame")
    return painted


def _require_on_source(frame: Frame, positions: Mapping[Origin, Vector]) -> None:
    if not frame.sources:
        raise _wrong(f"{frame} does not say which Instance it was derived from")
    for origin in frame.sources:
        uid, number = origin
        name = uid if number is None else f"frame {number} of {uid}"
        if origin not in positions:
            raise _wrong(f"{frame} refers to {name}, which is not in the source Series")
        off = float(np.linalg.norm(frame.position - positions[origin]))
        if not off <= POSITION_TOLERANCE_MM:
            raise _wrong(f"{frame} lies {off:.3f} mm off {name}, from which it was derived")


def _slice_index(frame: Frame, against: LabelMap) -> int:
    """The slice of the label map where the frame lies; as far off as a source slice may lie."""
    off = np.linalg.norm(against.slice_positions - frame.position, axis=1)
    index = int(np.argmin(off))
    spacing = float(np.linalg.norm(against.affine[:3, 0]))
    allowed = POSITION_TOLERANCE_MM if against.positions is not None else tolerance_mm(spacing)
    if not off[index] <= allowed:
        raise _wrong(f"{frame} lies {off[index]:.3f} mm off slice {index} of the label map")
    return index


def _paint(plane: NDArray[np.generic], frame: Frame, label: int) -> None:
    if plane[frame.mask].any():
        raise _wrong(f"{frame} overlaps a frame before it")
    plane[frame.mask] = label


def _require_equal(painted: NDArray[np.generic], against: LabelMap) -> None:
    if not np.array_equal(painted, against.array):
        wrong = np.argwhere(painted != against.array)
        at = tuple(int(index) for index in wrong[0])
        raise _wrong(
            f"{len(wrong)} voxels differ from the label map; the first is (slice, row, column) "
            f"{at}: label {painted[at]} in the Segmentation, {against.array[at]} in the map"
        )


def _wrong(sentence: str) -> Fatal:
    return Fatal(f"the Segmentation is wrong and must not leave (please report this): {sentence}")
