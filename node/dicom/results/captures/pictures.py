"""A few slices with outlines as a person sees them: which they are, and what is drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset

from node.core.anatomy import Segment
from node.core.volume import LabelMap
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
from node.dicom.elements import long_string, stated
from node.dicom.results.answer import Answer
from node.dicom.results.context import ORIENTATION_ASSUMED, RESEARCH_USE, caveats_of, profile_mark
from node.dicom.voxels import modality_frames

MOST: Final = 9  # pictures
_USUAL = 6  # of which some may show no Segment that the others do not
_WELL_SHOWN = 0.7  # of the largest area that a Segment has on any slice
_WINDOW_PERCENT = (1.0, 99.5)
_LEAST_CONTRAST = 0.25  # of the grey levels; a window that leaves the slice less is no use
_LONGEST_NAME = 40  # characters in the legend
_SHORT_LEGEND = 12

Values = NDArray[np.float32]
Counts = NDArray[np.intp]  # (segment, slice)
Volumes = Mapping[Segment, float]  # ml


@dataclass(frozen=True, eq=False)
class ShownSlice:
    """A slice that is shown. values: modality values, (row, column). frame: 1 to n."""

    index: int
    instance: Dataset
    frame: int | None
    spacing_mm: tuple[float, float]
    values: Values

    @property
    def pixel_mm(self) -> float:
        """Side of a pixel of its picture."""
        rows, columns = self.values.shape
        return pixel_mm(rows, columns, self.spacing_mm)


def pictures_of(answer: Answer) -> list[tuple[ShownSlice, Image.Image]]:
    """At most nine, slice by slice, all of one size: where the Segments are largest.

    The middle slice where none was found. Raises SeriesRejected where one cannot be decoded.
    """
    counts = _counts(answer.label_map, answer.model.segments)
    slices = [_slice(answer, index) for index in _chosen(counts)]
    volumes = dict(zip(answer.model.segments, counts @ answer.label_map.voxel_ml, strict=True))
    pictures = _of_one_size([_picture(answer, one, volumes) for one in slices])
    return list(zip(slices, pictures, strict=True))


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


def _slice(answer: Answer, index: int) -> ShownSlice:
    plane = answer.planes[index]
    instance = next(
        one for one in answer.source.instances if one.SOPInstanceUID == plane.sop_instance_uid
    )
    (values,) = modality_frames(instance, [(plane.frame or 1) - 1], str(plane))
    spacing = stated(instance, plane.frame, "PixelMeasuresSequence", "PixelSpacing").value
    rows, columns = float(spacing[0]), float(spacing[1])
    return ShownSlice(index, instance, plane.frame, (rows, columns), values)


def _picture(answer: Answer, one: ShownSlice, volumes: Volumes) -> Image.Image:
    """The slice at the upper left corner, so that rulers of a viewer measure on it; words below."""
    affine, labels = answer.label_map.affine, answer.label_map.array[one.index]
    present = set(np.unique(labels).tolist())
    here = [segment for segment in volumes if segment.number in present]
    size = size_px(labels.shape[0], labels.shape[1], one.spacing_mm, one.pixel_mm)
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


def _title(answer: Answer) -> str:
    model = answer.model
    caveats = caveats_of(answer.label_map.positions is not None, answer.verdict)
    marks = profile_mark(model) + "".join(caveat.mark for caveat in caveats)
    return long_string(model.title, marks) + f"; {ORIENTATION_ASSUMED}" * model.orientation_assumed


def _window(one: ShownSlice) -> tuple[float, float]:
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
