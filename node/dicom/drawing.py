"""Drawing slices with outlines, legends and letters: what all pictures of results share."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from node.core.anatomy import Segment
from node.core.volume import Affine

BACKGROUND: Final = (16, 17, 20)
TEXT: Final = (225, 227, 230)
FAINT: Final = (130, 134, 140)
MARGIN_PX: Final = 12
LINE_PX: Final = 24

_FONT_PX = 15
_SLICE_PX = 400  # of the longer side, about
_MOST_PX = 4096  # of the longer side, where pixels are far from square
_OUTLINE_PX = 2
_FILL = 0.18  # how much colour lies over the voxels inside an outline

Mask = NDArray[np.bool_]
Pixels = NDArray[np.uint8]  # (row, column, RGB)
Colour = tuple[int, int, int]  # sRGB
Entry = tuple[str, Colour | None]
Size = tuple[int, int]  # width and height, pixels


def pixel_mm(rows: int, columns: int, spacing_mm: tuple[float, float]) -> float:
    """Side of a pixel of the picture of a slice: a whole part of the finer spacing.

    spacing_mm: of rows and of columns. Small slices are enlarged; none is reduced, but for those
    whose pixels are so far from square that the picture would have no end.
    """
    finer = min(spacing_mm)
    longer_mm = max(rows * spacing_mm[0], columns * spacing_mm[1])
    factor = max(1, round(_SLICE_PX / (longer_mm / finer)))
    return max(finer / factor, longer_mm / _MOST_PX)


def size_px(rows: int, columns: int, spacing_mm: tuple[float, float], mm: float) -> Size:
    return max(1, round(columns * spacing_mm[1] / mm)), max(1, round(rows * spacing_mm[0] / mm))


def drawn(
    values: NDArray[np.float32],
    labels: NDArray[np.integer],
    segments: Sequence[Segment],
    window: tuple[float, float],
    affine: Affine,
    size: Size,
) -> Image.Image:
    """A slice as it was acquired with the patient's directions, and outlines above all.

    values, labels: (row, column). window: what is black and what is white. affine: as a Volume's.
    """
    low, high = window
    grey = np.clip((values - low) / max(high - low, 1e-6), 0, 1) * 255
    picture = Image.fromarray(grey.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    picture = picture.convert("RGB")
    _write_directions(ImageDraw.Draw(picture), affine, size)
    enlarged = _enlarged(labels, size)
    pixels = np.array(picture)
    for segment in segments:
        _colour(pixels, enlarged == segment.number, segment.colour)
    return Image.fromarray(pixels)


def _enlarged(plane: NDArray[np.integer], size: tuple[int, int]) -> NDArray[np.integer]:
    """Nearest neighbour, for labels of any type. size: width and height, pixels."""
    rows = (2 * np.arange(size[1]) + 1) * plane.shape[0] // (2 * size[1])
    columns = (2 * np.arange(size[0]) + 1) * plane.shape[1] // (2 * size[0])
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
    left, top = letter(-affine[:3, 2]), letter(-affine[:3, 1])
    draw.text((6, size[1] / 2), left, TEXT, _font(), anchor="lm", stroke_width=2, stroke_fill=0)
    draw.text((size[0] / 2, 5), top, TEXT, _font(), anchor="mt", stroke_width=2, stroke_fill=0)


def letter(direction: NDArray[np.float64]) -> str:
    """The nearest of Left, Right, Posterior, Anterior, Head, Foot (PS3.3 C.7.6.1.1.1)."""
    axis = int(np.argmax(np.abs(direction)))
    return "LPH"[axis] if direction[axis] > 0 else "RAF"[axis]


def place_in_words(affine: Affine, position: NDArray[np.float64]) -> str:
    """Where a slice lies along its normal, as a direction from the origin and mm: "H 12.5 mm"."""
    normal = affine[:3, 0] / np.linalg.norm(affine[:3, 0])
    distance = float(position @ normal)
    return f"{letter(normal * distance)} {abs(distance):.1f} mm"


def line(text: str, colour: Colour, width: int, middle: bool = False) -> Image.Image:
    """One line of text."""
    picture = Image.new("RGB", (width, LINE_PX), BACKGROUND)
    place, anchor = (width / 2, "mm") if middle else (0, "lm")
    ImageDraw.Draw(picture).text((place, LINE_PX / 2), text, colour, _font(), anchor=anchor)
    return picture


def in_columns(pictures: Sequence[Image.Image], columns: int, gap: int = MARGIN_PX) -> Image.Image:
    """Pictures of one size, row by row."""
    wide, high = pictures[0].width + gap, pictures[0].height + gap
    columns = max(1, min(columns, len(pictures)))
    rows = -(-len(pictures) // columns)
    joined = Image.new("RGB", (columns * wide - gap, rows * high - gap), BACKGROUND)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        joined.paste(picture, (column * wide, row * high))
    return joined


def legend(entries: Sequence[Entry], room: int) -> Image.Image:
    """All entries in as many columns as `room` pixels hold."""
    widest = max(entry_px(text) for text, _ in entries)
    lines = [_entry(text, colour, widest) for text, colour in entries]
    return in_columns(lines, room // widest, gap=0)


def _entry(text: str, colour: Colour | None, width: int) -> Image.Image:
    line = Image.new("RGB", (width, LINE_PX), BACKGROUND)
    draw = ImageDraw.Draw(line)
    top = (LINE_PX - _FONT_PX) // 2
    square = (0, top, _FONT_PX, top + _FONT_PX)
    draw.rectangle(square, fill=colour, outline=colour or FAINT)
    middle = top + _FONT_PX / 2
    draw.text((24, middle), text, TEXT if colour else FAINT, _font(), anchor="lm")
    return line


def entry_px(text: str) -> int:
    return int(_font().getlength(text)) + 48


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_FONT_PX)  # Pillow's own: the same picture on every machine
