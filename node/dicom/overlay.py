"""A picture of a result for a person's eye: a few slices with the outlines of the Segments."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from node.core.anatomy import Segment
from node.core.volume import Affine, LabelMap, Volume

FOOTER: Final = "Research use. Not a medical device."

_SLICES = 6
_TILES_A_ROW = 3
_TILE_PX = 400  # of the longer side, about
_MARGIN_PX = 12
_LINE_PX = 24
_FONT_PX = 15
_OUTLINE_PX = 2
_WINDOW_PERCENT = (1.0, 99.5)
_FILL = 0.18  # how much colour lies over the voxels inside an outline
_SHORT_LEGEND = 12  # with more Segments than this, only those that were found are named
_BACKGROUND = (16, 17, 20)
_TEXT = (225, 227, 230)
_FAINT = (130, 134, 140)

Mask = NDArray[np.bool_]
Pixels = NDArray[np.uint8]  # (row, column, RGB)
Colour = tuple[int, int, int]  # sRGB
Entry = tuple[str, Colour | None]


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
    size = _size_px(volume)
    low, high = window
    grey = np.clip((volume.array[index] - low) / max(high - low, 1e-6), 0, 1) * 255
    picture = Image.fromarray(grey.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    labels = _enlarged(label_map.array[index], size)
    pixels = np.array(picture.convert("RGB"))
    for segment in segments:
        _colour(pixels, labels == segment.number, segment.colour)
    tile = Image.new("RGB", (size[0], size[1] + _LINE_PX), _BACKGROUND)
    tile.paste(Image.fromarray(pixels), (0, 0))
    draw = ImageDraw.Draw(tile)
    _write_directions(draw, volume.affine, size)
    place = f"slice {index + 1} of {volume.array.shape[0]}    {_position(volume.affine, index)}"
    draw.text((size[0] / 2, size[1] + _LINE_PX / 2), place, _TEXT, _font(), anchor="mm")
    return tile


def _size_px(volume: Volume) -> tuple[int, int]:
    """Width and height of a slice: the finer spacing becomes a whole number of pixels."""
    _, rows, columns = volume.array.shape
    _, row_mm, column_mm = volume.spacing_mm
    finer = min(row_mm, column_mm)
    longer = max(rows * row_mm, columns * column_mm) / finer
    factor = max(1, round(_TILE_PX / longer))
    return round(columns * column_mm / finer * factor), round(rows * row_mm / finer * factor)


def _enlarged(plane: NDArray[np.generic], size: tuple[int, int]) -> NDArray[np.generic]:
    """Nearest neighbour, for labels of any type. size: width and height, pixels."""
    rows = np.arange(size[1]) * plane.shape[0] // size[1]
    columns = np.arange(size[0]) * plane.shape[1] // size[0]
    return plane[np.ix_(rows, columns)]


def _colour(pixels: Pixels, mask: Mask, colour: Colour) -> None:
    """Tints the inside a little and draws the outline, inside too: neighbours stay visible."""
    inside = mask
    for _ in range(_OUTLINE_PX):
        inside = _eroded(inside)
    tinted = pixels[inside] * (1 - _FILL) + np.asarray(colour) * _FILL
    pixels[inside] = tinted.astype(np.uint8)
    pixels[mask & ~inside] = colour


def _eroded(mask: Mask) -> Mask:
    """Without the pixels that touch the outside by an edge; the border of the slice is outside."""
    padded = np.pad(mask, 1)
    return mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]


def _write_directions(draw: ImageDraw.ImageDraw, affine: Affine, size: tuple[int, int]) -> None:
    """To which side of the patient the left and the upper border of the slice lie."""
    left, top = _letter(-affine[:3, 2]), _letter(-affine[:3, 1])
    draw.text((6, size[1] / 2), left, _TEXT, _font(), anchor="lm", stroke_width=2, stroke_fill=0)
    draw.text((size[0] / 2, 5), top, _TEXT, _font(), anchor="mt", stroke_width=2, stroke_fill=0)


def _letter(direction: NDArray[np.float64]) -> str:
    """The nearest of Left, Right, Posterior, Anterior, Head, Foot (PS3.3 C.7.6.1.1.1)."""
    axis = int(np.argmax(np.abs(direction)))
    return "LPH"[axis] if direction[axis] > 0 else "RAF"[axis]


def _position(affine: Affine, index: int) -> str:
    """Where a slice lies along its normal, as a direction from the origin and mm: "H 12.5 mm"."""
    normal = affine[:3, 0] / np.linalg.norm(affine[:3, 0])
    distance = float((affine @ [index, 0, 0, 1])[:3] @ normal)
    return f"{_letter(normal * distance)} {abs(distance):.1f} mm"


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
    pictures = _in_columns(tiles, _TILES_A_ROW)
    room = max(pictures.width, *(_entry_px(text) for text, _ in entries), _entry_px(FOOTER))
    parts = [pictures, _legend(entries, room), _footer()]
    height = sum(part.height + _MARGIN_PX for part in parts) + _MARGIN_PX
    sheet = Image.new("RGB", (room + 2 * _MARGIN_PX, height), _BACKGROUND)
    top = _MARGIN_PX
    for part in parts:
        sheet.paste(part, (_MARGIN_PX, top))
        top += part.height + _MARGIN_PX
    return sheet


def _in_columns(
    pictures: Sequence[Image.Image], columns: int, gap: int = _MARGIN_PX
) -> Image.Image:
    """Pictures of one size, row by row."""
    wide, high = pictures[0].width + gap, pictures[0].height + gap
    columns = max(1, min(columns, len(pictures)))
    rows = -(-len(pictures) // columns)
    joined = Image.new("RGB", (columns * wide - gap, rows * high - gap), _BACKGROUND)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        joined.paste(picture, (column * wide, row * high))
    return joined


def _legend(entries: Sequence[Entry], room: int) -> Image.Image:
    """All entries in as many columns as `room` pixels hold."""
    widest = max(_entry_px(text) for text, _ in entries)
    lines = [_entry(text, colour, widest) for text, colour in entries]
    return _in_columns(lines, room // widest, gap=0)


def _entry(text: str, colour: Colour | None, width: int) -> Image.Image:
    line = Image.new("RGB", (width, _LINE_PX), _BACKGROUND)
    draw = ImageDraw.Draw(line)
    top = (_LINE_PX - _FONT_PX) // 2
    square = (0, top, _FONT_PX, top + _FONT_PX)
    draw.rectangle(square, fill=colour, outline=colour or _FAINT)
    middle = top + _FONT_PX / 2
    draw.text((24, middle), text, _TEXT if colour else _FAINT, _font(), anchor="lm")
    return line


def _footer() -> Image.Image:
    line = Image.new("RGB", (_entry_px(FOOTER), _LINE_PX), _BACKGROUND)
    ImageDraw.Draw(line).text((0, _LINE_PX / 2), FOOTER, _FAINT, _font(), anchor="lm")
    return line


def _entry_px(text: str) -> int:
    return int(_font().getlength(text)) + 48


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_FONT_PX)  # Pillow's own: the same picture on every machine
