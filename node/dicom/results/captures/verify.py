"""The gate before delivery of pictures: what is drawn is looked for where the labels end.

Nothing here is shared with the encoder: pixels are decoded by pydicom, and where a voxel lies in
the picture follows from the pixel spacings that the two headers state.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from node.core.anatomy import Segment
from node.core.errors import Fatal
from node.core.result import ResultKind
from node.dicom.results.answer import Answer, ResultObject
from node.dicom.results.gate import parsed, require_equal, require_same_patient
from node.dicom.voxels import modality_frames

_LIKE_GREY = 48  # between the channels of a colour that a tinted grey may have by chance
_BYTES = np.array([1 << 16, 1 << 8, 1], np.uint32)  # a colour as one number
_ABOUT = 1e-3  # of a cosine: by how much the nearest side may be nearer than the next
_TOWARDS = {  # in LPS, PS3.3 C.7.6.2.1.1
    **{end: np.eye(3)[axis] for axis, end in enumerate("LPH")},
    **{end: -np.eye(3)[axis] for axis, end in enumerate("RAF")},
}

Mask = NDArray[np.bool_]
Pixels = NDArray[np.uint8]  # (row, column, RGB)


def verify_captures(captures: Sequence[ResultObject], answer: Answer) -> None:
    """Whether each picture shows its slice as it lies, with outlines where its Segments end.

    Every pixel at the edge of a Segment has its colour, and no pixel outside of it has, as far as
    the colour can be told from a tinted grey. The slice itself is not mirrored.
    Raises Fatal saying what is wrong in which picture: a bug of ours.
    """
    if not captures:
        raise _wrong("there is none")
    series = set()
    for part, capture in enumerate(captures, start=1):
        dataset = parsed(capture.content, _wrong)
        try:
            _require_identity(dataset, capture, answer, part)
            _require_side(dataset, answer, part)
            _require_drawn(dataset, answer, part)
            series.add(str(dataset.SeriesInstanceUID))
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise _wrong(f"picture {part} lacks what it must have: {error!r}") from error
    if len(series) != 1:
        raise _wrong("they are not of one Series")


def _require_identity(dataset: Dataset, capture: ResultObject, answer: Answer, part: int) -> None:
    """Patient and Study of the source, its own names, and what kind of picture it is."""

    def wrong(sentence: str) -> Fatal:
        return _wrong(f"of picture {part}, {sentence}")

    source = _instances(answer)[str(dataset.SourceImageSequence[0].ReferencedSOPInstanceUID)]
    require_same_patient(dataset, source, wrong)
    ref, uids = capture.ref, answer.uids(ResultKind.CAPTURE, part=part)
    stated = {
        "SOP Class": (dataset.SOPClassUID, SecondaryCaptureImageStorage),
        "SOP Class by name": (ref.sop_class_uid, SecondaryCaptureImageStorage),
        "SOP Instance": (dataset.SOPInstanceUID, uids.sop_instance_uid),
        "SOP Instance by name": (ref.sop_instance_uid, uids.sop_instance_uid),
        "Series": (dataset.SeriesInstanceUID, uids.series_instance_uid),
        "Series by name": (ref.series_instance_uid, uids.series_instance_uid),
        "Instance Number": (int(dataset.InstanceNumber), part),
        "Burned In Annotation": (dataset.BurnedInAnnotation, "NO"),
        "Conversion Type": (dataset.ConversionType, "WSD"),
        "Image Type": (list(dataset.ImageType)[:2], ["DERIVED", "SECONDARY"]),
        "Photometric Interpretation": (dataset.PhotometricInterpretation, "RGB"),
    }
    require_equal(stated, wrong)


def _require_side(dataset: Dataset, answer: Answer, part: int) -> None:
    """Of a paired part, the side that the source says; and which way the patient lies."""
    image = dataset.SourceImageSequence[0]
    source = _instances(answer)[str(image.ReferencedSOPInstanceUID)]
    frame = image.get("ReferencedFrameNumber")
    of_frame = _group(source, frame, "FrameAnatomySequence", "FrameLaterality")
    sides = {
        "BodyPartExamined": source.get("BodyPartExamined"),
        "Laterality": source.get("Laterality"),
        "ImageLaterality": of_frame.get("FrameLaterality") or source.get("ImageLaterality"),
    }
    for keyword, expected in sides.items():
        if str(dataset.get(keyword) or "") != str(expected or ""):
            raise _wrong(f"{keyword} of picture {part} is {dataset.get(keyword)}, not {expected}")
    plane = _group(source, frame, "PlaneOrientationSequence", "ImageOrientationPatient")
    cosines = np.asarray(plane.ImageOrientationPatient, float).reshape(2, 3)
    for ends, direction in zip(dataset.PatientOrientation, cosines, strict=True):
        if not _runs(str(ends), direction):
            raise _wrong(f"Patient Orientation of picture {part} is {dataset.PatientOrientation}")


def _group(source: Dataset, frame: int | None, group: str, keyword: str) -> Dataset:
    """What says this of a frame: its own group, that of all frames, or a classic header itself."""
    if frame is None:
        return source
    own = source.PerFrameFunctionalGroupsSequence[int(frame) - 1]
    shared = (source.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    items = [where.get(group) or [Dataset()] for where in (own, shared)]
    return next((one[0] for one in items if keyword in one[0]), Dataset())


def _runs(ends: str, direction: NDArray[np.float64]) -> bool:
    """Whether a line runs to these sides of the patient, nearest first (PS3.3 C.7.6.1.1.1)."""
    along = [float(direction @ _TOWARDS[end]) for end in ends]
    nearest = float(np.abs(direction).max())
    return bool(along) and min(along) > 0 and along[0] >= nearest - _ABOUT


def _instances(answer: Answer) -> Mapping[str, Dataset]:
    return {str(one.SOPInstanceUID): one for one in answer.source.instances}


def _require_drawn(dataset: Dataset, answer: Answer, part: int) -> None:
    (image,) = dataset.SourceImageSequence
    frame = image.get("ReferencedFrameNumber")
    origin = str(image.ReferencedSOPInstanceUID), None if frame is None else int(frame)
    planes = [(plane.sop_instance_uid, plane.frame) for plane in answer.planes]
    index = planes.index(origin)
    pixels: Pixels = dataset.pixel_array
    rows, columns = _picture_size(dataset, _instances(answer)[origin[0]], origin[1])
    if rows > pixels.shape[0] or columns > pixels.shape[1]:
        raise _wrong(f"picture {part} is smaller than its slice")
    labels = _at_centres(answer.label_map.array[index], rows, columns)
    shown = pixels[:rows, :columns]
    values = shown.astype(np.uint32) @ _BYTES
    for colour in sorted({segment.colour for segment in answer.model.segments}):
        alike = [s for s in answer.model.segments if s.colour == colour]
        _require_outlines(values == np.uint32(np.asarray(colour) @ _BYTES), labels, alike, part)
    _require_upright(shown, labels, _grey(answer, origin, rows, columns), part)


def _picture_size(dataset: Dataset, source: Dataset, frame: int | None) -> tuple[int, int]:
    """Rows and columns of the picture that the slice takes, from its upper left corner."""
    measures = _group(source, frame, "PixelMeasuresSequence", "PixelSpacing")
    high, wide = (float(value) for value in dataset.PixelSpacing)
    row_spacing, column_spacing = (float(value) for value in measures.PixelSpacing)
    return round(source.Rows * row_spacing / high), round(source.Columns * column_spacing / wide)


def _at_centres(plane: NDArray[np.generic], rows: int, columns: int) -> NDArray[np.generic]:
    """What lies under the centre of each pixel of the picture."""
    row = np.floor((np.arange(rows) + 0.5) / rows * plane.shape[0]).astype(int)
    column = np.floor((np.arange(columns) + 0.5) / columns * plane.shape[1]).astype(int)
    under: NDArray[np.generic] = plane[row][:, column]
    return under


def _require_outlines(
    coloured: Mask, labels: NDArray[np.generic], alike: Sequence[Segment], part: int
) -> None:
    """Segments of one colour: each has it along its edge, and nothing outside of them has it."""
    inside = np.zeros(labels.shape, np.bool_)
    for segment in alike:
        mask = labels == segment.number
        if not mask.any():
            continue
        missing = int(np.count_nonzero(_edge(mask) & ~coloured))
        if missing:
            raise _wrong(
                f"{missing} pixels along the edge of Segment {segment.number} are not drawn in "
                f"picture {part}"
            )
        inside |= mask
    strays = int(np.count_nonzero(coloured & ~inside))
    if strays and int(np.ptp(alike[0].colour)) > _LIKE_GREY:
        raise _wrong(f"picture {part} has {strays} pixels in the colour of no Segment there")


def _edge(mask: Mask) -> Mask:
    """Pixels of a mask with a neighbour that is none; the border of the slice is none."""
    edge = np.zeros_like(mask)
    for axis in (0, 1):
        for shift in (1, -1):
            neighbour = np.roll(mask, shift, axis)
            border: list[slice | int] = [slice(None), slice(None)]
            border[axis] = 0 if shift > 0 else -1
            neighbour[tuple(border)] = False
            edge |= mask & ~neighbour
    return edge


def _grey(
    answer: Answer, origin: tuple[str, int | None], rows: int, columns: int
) -> NDArray[np.generic]:
    instance, frame = _instances(answer)[origin[0]], (origin[1] or 1) - 1
    (values,) = modality_frames(instance, [frame], f"Instance {origin[0]}")
    low, high = np.percentile(values, (1, 99))
    return _at_centres(np.clip(values, low, high), rows, columns)


def _require_upright(
    shown: Pixels, labels: NDArray[np.generic], values: NDArray[np.generic], part: int
) -> None:
    """Outside the Segments the picture is more like its slice than like a mirror of it."""
    free = labels == 0
    as_it_lies = _likeness(shown[..., 1], values, free)
    for flipped in (values[::-1], values[:, ::-1], values[::-1, ::-1]):
        if _likeness(shown[..., 1], flipped, free) > as_it_lies + 1e-3:
            raise _wrong(f"picture {part} shows its slice mirrored")


def _likeness(shown: NDArray[np.uint8], values: NDArray[np.generic], where: Mask) -> float:
    """Correlation; 0 where one of them is constant."""
    one, other = shown[where].astype(float), values[where].astype(float)
    if not one.size or np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])


def _wrong(sentence: str) -> Fatal:
    return Fatal(f"a picture is wrong and must not leave (please report this): {sentence}")
