"""A picture of a result for a person's eye: a few slices with the outlines of the Segments."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from PIL import Image

from node.core.anatomy import Segment
from node.core.volume import LabelMap, Volume
from node.dicom.drawing import (
    BACKGROUND,
    FAINT,
    LINE_PX,
    MARGIN_PX,
    TEXT,
    Entry,
    drawn,
    entry_px,
    in_columns,
    legend,
    line,
    pixel_mm,
    place_in_words,
    size_px,
)

FOOTER: Final = "Research use. Not a medical device."

_SLICES = 6
_TILES_A_ROW = 3
_WINDOW_PERCENT = (1.0, 99.5)
_SHORT_LEGEND = 12  # with more Segments than this, only those that were found are named


def overlay(volume: Volume, label_map: LabelMap, segments: Sequence[Segment]) -> Image.Image:
    """Up to six slices through the labels, as they were acquired, with a legend in ml.

    volume and label_map lie on one grid. The window spans percentiles of the slices that are
    shown; voxels keep their shape in mm, and small ones are enlarged by a whole factor.
    """
    shown = _slices(label_map)
    low, high = np.percentile(volume.array[shown], _WINDOW_PERCENT)
    window = float(low), float(high)
    tiles = [_tile(volume, label_map, segments, index, window) for index in shown]
    return _sheet(tiles, _entries(label_map, segments))


def _slices(label_map: LabelMap) -> list[int]:
    """Slices evenly over those with a label; over all where there is none."""
    found = np.flatnonzero(label_map.array.any(axis=(1, 2)))
    candidates = found if found.size else np.arange(label_map.array.shape[0])
    count = min(_SLICES, candidates.size)
    places = (np.arange(count) + 0.5) * candidates.size / count
    return [int(candidates[int(place)]) for place in places]


def _tile(
    volume: Volume,
    label_map: LabelMap,
    segments: Sequence[Segment],
    index: int,
    window: tuple[float, float],
) -> Image.Image:
    """One slice with its outlines, its position and the patient's directions."""
    slices, rows, columns = volume.array.shape
    spacing = volume.spacing_mm[1:]
    size = size_px(rows, columns, spacing, pixel_mm(rows, columns, spacing))
    labels = label_map.array[index]
    picture = drawn(volume.array[index], labels, segments, window, volume.affine, size)
    tile = Image.new("RGB", (size[0], size[1] + LINE_PX), BACKGROUND)
    tile.paste(picture, (0, 0))
    position = (volume.affine @ [index, 0, 0, 1])[:3]
    place = f"slice {index + 1} of {slices}    {place_in_words(volume.affine, position)}"
    tile.paste(line(place, TEXT, size[0], middle=True), (0, size[1]))
    return tile


def _entries(label_map: LabelMap, segments: Sequence[Segment]) -> list[Entry]:
    """A line for each Segment with its colour, or None for what was not found."""
    volumes = {segment: label_map.volume_ml(segment.number) for segment in segments}
    found = [(f"{s.label}   {ml:.2f} ml", s.colour) for s, ml in volumes.items() if ml]
    missing = [segment.label for segment, ml in volumes.items() if not ml]
    if len(segments) > _SHORT_LEGEND and missing:
        return [*found, (f"{len(missing)} others: not found", None)]
    return [*found, *((f"{label}   not found", None) for label in missing)]


def _sheet(tiles: Sequence[Image.Image], entries: Sequence[Entry]) -> Image.Image:
    """Tiles, below them the legend, below that the footer; all from the left margin."""
    pictures = in_columns(tiles, _TILES_A_ROW)
    room = max(pictures.width, *(entry_px(text) for text, _ in entries), entry_px(FOOTER))
    parts = [pictures, legend(entries, room), line(FOOTER, FAINT, entry_px(FOOTER))]
    height = sum(part.height + MARGIN_PX for part in parts) + MARGIN_PX
    sheet = Image.new("RGB", (room + 2 * MARGIN_PX, height), BACKGROUND)
    top = MARGIN_PX
    for part in parts:
        sheet.paste(part, (MARGIN_PX, top))
        top += part.height + MARGIN_PX
    return sheet
