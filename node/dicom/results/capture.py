"""Pictures of a few slices with outlines, for viewers that show nothing else (PS3.3 A.8.1).

Single-frame Secondary Captures in one Series: every viewer and every archive since 1993 shows
them, while the multi-frame true colour class of 2000 is still refused by some. Uncompressed RGB,
for the same reason. No name of a patient is drawn.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset
from pydicom.uid import SecondaryCaptureImageStorage
from pydicom.valuerep import DSfloat

from node.core.anatomy import Code, Segment
from node.core.errors import Fatal
from node.core.result import ObjectRef, ResultKind
from node.core.volume import Affine, LabelMap
from node.dicom.drawing import (
    BACKGROUND,
    MARGIN_PX,
    TEXT,
    Entry,
    drawn,
    entry_px,
    legend,
    line,
    pixel_mm,
    place_in_words,
    size_px,
)
from node.dicom.elements import code_item, long_string, reference, stated
from node.dicom.results.answer import Answer, ResultObject
from node.dicom.results.context import (
    SeriesKind,
    caveats_of,
    copy_context,
    describe_series,
    identify,
    profile_mark,
    refer_to_source,
    set_character_set,
    set_times,
    words_of,
)
from node.dicom.results.segmentation import ORIENTATION_ASSUMED, RESEARCH_USE, file_bytes
from node.dicom.voxels import modality_frames

CAPTURES: Final = SeriesKind("OT", 3000, "Pictures: ")  # OT: other, C.7.3.1.1.1
MOST: Final = 9  # pictures
_USUAL = 6  # of which some may show no Segment that the others do not
_WELL_SHOWN = 0.7  # of the largest area that a Segment has on any slice
_WINDOW_PERCENT = (1.0, 99.5)
_LEAST_CONTRAST = 0.25  # of the grey levels; a window that leaves the slice less is no use
_LONGEST_NAME = 40  # characters in the legend
_SHORT_LEGEND = 12
_OBLIQUE = 0.1  # of a cosine
_SOURCE_IMAGE = Code("121322", "DCM", "Source image for image processing operation")  # CID 7202

Values = NDArray[np.float32]
Counts = NDArray[np.intp]  # (segment, slice)
Volumes = Mapping[Segment, float]  # ml


@dataclass(frozen=True, eq=False)
class _Slice:
    """A slice that is shown. values: modality values, (row, column). frame: 1 to n."""

    index: int
    instance: Dataset
    frame: int | None
    spacing_mm: tuple[float, float]
    values: Values


def encode_captures(answer: Answer) -> list[ResultObject]:
    """Up to nine pictures, slice by slice, of one Series and of one size.

    The slices where the Segments are largest; the middle one where none was found.
    Raises Fatal, SeriesRejected where the source cannot be drawn.
    """
    counts = _counts(answer.label_map, answer.model.segments)
    slices = [_slice(answer, index) for index in _chosen(counts)]
    volumes = dict(zip(answer.model.segments, counts @ answer.label_map.voxel_ml, strict=True))
    pictures = _of_one_size([_picture(answer, one, volumes) for one in slices])
    return [
        _encoded(answer, part, one, picture)
        for part, (one, picture) in enumerate(zip(slices, pictures, strict=True), start=1)
    ]


# --- which slices


def _counts(label_map: LabelMap, segments: Sequence[Segment]) -> Counts:
    """Voxels by Segment and slice."""
    numbers = [segment.number for segment in segments]
    length = max(numbers) + 1
    counts = [np.bincount(one.ravel(), minlength=length)[numbers] for one in label_map.array]
    return np.stack(counts, axis=1)


def _chosen(counts: Counts) -> list[int]:
    """Greedily, slices that show most of what the others do not; then some in between."""
    areas = counts[counts.any(axis=1)]
    if not areas.size:
        return [counts.shape[1] // 2]
    share = areas / areas.max(axis=1, keepdims=True)
    chosen: set[int] = set()
    while len(chosen) < MOST:
        shown = share[:, sorted(chosen)].max(axis=1, initial=0.0)
        if (shown >= _WELL_SHOWN).all():
            break
        chosen.add(int(np.argmax(np.maximum(share - shown[:, None], 0.0).sum(axis=0))))
    between = np.flatnonzero(areas.any(axis=0))
    places = (np.arange(_USUAL) + 0.5) * between.size / _USUAL
    for place in places:
        if len(chosen) < _USUAL:
            chosen.add(int(between[int(place)]))
    return sorted(chosen)


def _slice(answer: Answer, index: int) -> _Slice:
    plane = answer.planes[index]
    instance = next(
        one for one in answer.source.instances if one.SOPInstanceUID == plane.sop_instance_uid
    )
    (values,) = modality_frames(instance, [(plane.frame or 1) - 1], str(plane))
    spacing = stated(instance, plane.frame, "PixelMeasuresSequence", "PixelSpacing").value
    rows, columns = float(spacing[0]), float(spacing[1])
    return _Slice(index, instance, plane.frame, (rows, columns), values)


# --- how they look


def _picture(answer: Answer, one: _Slice, volumes: Volumes) -> Image.Image:
    """The slice at the upper left corner, so that rulers of a viewer measure on it; words below."""
    affine, labels = answer.label_map.affine, answer.label_map.array[one.index]
    present = set(np.unique(labels).tolist())
    here = [segment for segment in volumes if segment.number in present]
    size = size_px(labels.shape[0], labels.shape[1], one.spacing_mm, _pixel_mm(one))
    parts = [drawn(one.values, labels, here, _window(one), affine, size)]
    position = answer.label_map.slice_positions[one.index]
    place = place_in_words(affine, position)
    count = len(answer.label_map.array)
    for words, colour in (
        (f"slice {one.index + 1} of {count}    {place}", TEXT),
        (_title(answer), TEXT),
        (RESEARCH_USE, TEXT),
    ):
        parts.append(line(words, colour, entry_px(words)))
    entries = _entries(here, volumes)
    parts.append(legend(entries, max(size[0], *(entry_px(text) for text, _ in entries))))
    return _below_each_other(parts)


def _pixel_mm(one: _Slice) -> float:
    rows, columns = one.values.shape
    return pixel_mm(rows, columns, one.spacing_mm)


def _title(answer: Answer) -> str:
    model = answer.model
    caveats = caveats_of(answer.label_map.positions is not None, answer.verdict)
    marks = profile_mark(model) + "".join(caveat.mark for caveat in caveats)
    return long_string(model.title, marks) + f"; {ORIENTATION_ASSUMED}" * model.orientation_assumed


def _window(one: _Slice) -> tuple[float, float]:
    """What is black and what is white: as the source asks (C.11.2.1.2), or by percentiles."""
    try:
        centre, width = (
            float(
                np.atleast_1d(stated(one.instance, one.frame, "FrameVOILUTSequence", name).value)[0]
            )
            for name in ("WindowCenter", "WindowWidth")
        )
    except Exception:  # absent, or of values that are none: there is always the other way
        centre = width = float("nan")
    low, high = np.percentile(one.values, _WINDOW_PERCENT)
    asked = centre - width / 2, centre + width / 2
    if width > 0 and np.ptp(np.clip((low, high), *asked)) >= _LEAST_CONTRAST * width:
        return asked
    return float(low), float(high)


def _entries(here: Sequence[Segment], volumes: Volumes) -> list[Entry]:
    """The Segments on the slice with their whole volumes; where none was found, their names."""
    if here:
        return [
            (f"{_name(segment)}   {volumes[segment]:.2f} ml", segment.colour) for segment in here
        ]
    if any(volumes.values()):
        return [("nothing found on this slice", None)]
    if len(volumes) > _SHORT_LEGEND:
        return [(f"none of {len(volumes)} structures found", None)]
    return [(f"{_name(segment)}   not found", None) for segment in volumes]


def _name(segment: Segment) -> str:
    label = long_string(segment.label)
    return label if len(label) <= _LONGEST_NAME else label[: _LONGEST_NAME - 1] + "…"


def _below_each_other(parts: Sequence[Image.Image]) -> Image.Image:
    """The first at the left border, those below it in from it."""
    width = max(parts[0].width, *(part.width + 2 * MARGIN_PX for part in parts[1:]))
    height = sum(part.height for part in parts) + MARGIN_PX
    sheet = Image.new("RGB", (width, height), BACKGROUND)
    top = 0
    for part in parts:
        sheet.paste(part, (MARGIN_PX if top else 0, top))
        top += part.height
    return sheet


def _of_one_size(pictures: Sequence[Image.Image]) -> list[Image.Image]:
    """Viewers lay out a Series by its first picture."""
    size = max(one.width for one in pictures), max(one.height for one in pictures)
    sheets = []
    for one in pictures:
        sheet = Image.new("RGB", size, BACKGROUND)
        sheet.paste(one, (0, 0))
        sheets.append(sheet)
    return sheets


# --- as DICOM


def _encoded(answer: Answer, part: int, one: _Slice, picture: Image.Image) -> ResultObject:
    uids = answer.uids(ResultKind.CAPTURE, part=part)
    caveats = caveats_of(answer.label_map.positions is not None, answer.verdict)
    dataset = Dataset()
    copy_context(dataset, one.instance)
    del dataset.PositionReferenceIndicator  # it lies in no Frame of Reference
    identify(dataset, one.instance, uids, SecondaryCaptureImageStorage, in_space=False)
    describe_series(dataset, one.instance, answer.model, caveats, CAPTURES, part)
    set_times(dataset, one.instance, answer.created_at)
    set_character_set(dataset, one.instance, words_of(answer.model, answer.model.segments))
    refer_to_source(dataset, [one.instance])
    _describe_image(dataset, answer, one)
    _set_pixels(dataset, picture, _pixel_mm(one))
    ref = ObjectRef(
        ResultKind.CAPTURE,
        "",
        SecondaryCaptureImageStorage,
        uids.series_instance_uid,
        uids.sop_instance_uid,
    )
    return ResultObject(ref, (file_bytes(dataset),))


def _describe_image(dataset: Dataset, answer: Answer, one: _Slice) -> None:
    """General Image, SC Equipment and SC Image Modules, PS3.3 C.7.6.1, C.8.6.1, C.8.6.2."""
    dataset.ImageType = ["DERIVED", "SECONDARY"]
    dataset.ConversionType = "WSD"  # workstation
    dataset.BurnedInAnnotation = "YES"
    dataset.DateOfSecondaryCapture = dataset.ContentDate
    dataset.TimeOfSecondaryCapture = dataset.ContentTime
    _copy_side(dataset, one)
    dataset.PatientOrientation = _patient_orientation(answer.label_map.affine)
    dataset.ImageComments = RESEARCH_USE
    dataset.DerivationDescription = f"outlines of a segmentation drawn over slice {one.index + 1}"
    origin = reference(one.instance)
    if one.frame is not None:
        origin.ReferencedFrameNumber = one.frame
    origin.PurposeOfReferenceCodeSequence = [code_item(_SOURCE_IMAGE)]
    dataset.SourceImageSequence = [origin]


def _copy_side(dataset: Dataset, one: _Slice) -> None:
    """Of a paired part of the body, which one: Type 2C, as far as the source says it (C.7.3.1)."""
    for keyword in ("BodyPartExamined", "Laterality", "ImageLaterality"):
        if keyword in one.instance:
            dataset[keyword] = deepcopy(one.instance[keyword])
    if one.frame is not None:
        try:
            side = stated(one.instance, one.frame, "FrameAnatomySequence", "FrameLaterality")
            dataset.ImageLaterality = side.value
        except (AttributeError, Fatal, LookupError):
            pass  # it does not say it


def _patient_orientation(affine: Affine) -> list[str]:
    """To which sides of the patient rows and columns run, nearest first (C.7.6.1.1.1)."""
    sides = []
    for direction in (affine[:3, 2], affine[:3, 1]):
        cosines = direction / np.linalg.norm(direction)
        order = [axis for axis in np.argsort(-np.abs(cosines)) if abs(cosines[axis]) > _OBLIQUE]
        sides.append("".join("LPH"[a] if cosines[a] > 0 else "RAF"[a] for a in order))
    return sides


def _set_pixels(dataset: Dataset, picture: Image.Image, mm: float) -> None:
    """Image Pixel Module, PS3.3 C.7.6.3: RGB, 8 bits, colour by pixel."""
    dataset.Rows, dataset.Columns = picture.height, picture.width
    dataset.PixelSpacing = [DSfloat(mm, auto_format=True)] * 2
    dataset.SamplesPerPixel = 3
    dataset.PhotometricInterpretation = "RGB"
    dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = 8
    dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.PixelRepresentation = 0
    pixels = picture.tobytes()
    dataset.add_new("PixelData", "OB", pixels + b"\0" * (len(pixels) % 2))
