"""A picture of a result for the eye: a few slices with outlines, and a legend."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from node.core.anatomy import Segment
from node.core.volume import LabelMap, Volume

SLICES = 6
TILE_WIDTH = 280  # pixels, about; tiles are enlarged by nearest neighbour
MARGIN = 12
FOOTER = "Research use. Not a medical device."
_BACKGROUND, _TEXT, _FAINT = (16, 18, 22), (230, 230, 230), (150, 150, 150)


def overlay(volume: Volume, label_map: LabelMap, segments: Sequence[Segment]) -> Image.Image:
    """Slices of a Volume with each Segment outlined in its colour, names and volumes beside.

    The slices are spread evenly over those that hold a label. Aspect ratio follows the spacing.
    """
    tiles = [_tile(volume, label_map, segments, index) for index in _chosen(label_map)]
    columns = min(3, len(tiles))
    width, height = tiles[0].size
    rows = -(-len(tiles) // columns)
    legend_height = 26 * (len(segments) + 1) + MARGIN
    picture = Image.new(
        "RGB",
        (columns * (width + MARGIN) + MARGIN, rows * (height + MARGIN) + MARGIN + legend_height),
        _BACKGROUND,
    )
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        at = MARGIN + column * (width + MARGIN), MARGIN + row * (height + MARGIN)
        picture.paste(tile, at)
    _draw_legend(picture, rows * (height + MARGIN) + MARGIN, label_map, segments)
    return picture


def _chosen(label_map: LabelMap) -> list[int]:
    """Slices to show: evenly over those with a label, or the middle one where there is none."""
    labelled = np.flatnonzero(label_map.array.any(axis=(1, 2)))
    if labelled.size == 0:
        return [label_map.array.shape[0] // 2]
    inner = np.linspace(0, labelled.size - 1, min(SLICES, labelled.size) + 2)[1:-1]
    return sorted({int(labelled[round(place)]) for place in inner})


def _tile(
    volume: Volume, label_map: LabelMap, segments: Sequence[Segment], index: int
) -> Image.Image:
    _, row_mm, column_mm = volume.spacing_mm
    _, rows, columns = volume.array.shape
    scale = max(1, round(TILE_WIDTH / columns))
    size = (columns * scale, round(rows * scale * row_mm / column_mm))
    tile = Image.fromarray(_grey(volume, index)).resize(size, Image.Resampling.BICUBIC)
    pixels = np.asarray(tile.convert("RGB")).copy()
    for segment in segments:
        mask = Image.fromarray((label_map.array[index] == segment.number).astype(np.uint8))
        pixels[_outline(np.asarray(mask.resize(size, Image.Resampling.NEAREST)))] = segment.colour
    tile = Image.fromarray(pixels)
    position = volume.affine @ [index, (rows - 1) / 2, (columns - 1) / 2, 1.0]
    words = "LPS " + ", ".join(f"{value:.0f}" for value in position[:3]) + " mm"
    ImageDraw.Draw(tile).text(
        (6, 4), words, _TEXT, _font(14), stroke_width=1, stroke_fill=(0, 0, 0)
    )
    return tile


def _grey(volume: Volume, index: int) -> NDArray[np.uint8]:
    """One slice between the 1st and the 99.5th percentile of the volume, 0–255."""
    low, high = np.percentile(volume.array, (1.0, 99.5))
    scaled = (volume.array[index] - low) / max(float(high - low), 1e-6)
    grey: NDArray[np.uint8] = (np.clip(scaled, 0.0, 1.0) * 255.0).astype(np.uint8)
    return grey


def _outline(mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """The two outermost pixels of a mask."""
    inside = mask.astype(np.bool_)
    eroded = inside
    for _ in range(2):
        padded = np.pad(eroded, 1)
        eroded = (
            eroded & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        )
    outline: NDArray[np.bool_] = inside & ~eroded
    return outline


def _draw_legend(
    picture: Image.Image, top: int, label_map: LabelMap, segments: Sequence[Segment]
) -> None:
    draw = ImageDraw.Draw(picture)
    for number, segment in enumerate(segments):
        y = top + 26 * number
        draw.rectangle((MARGIN, y + 3, MARGIN + 16, y + 19), fill=segment.colour)
        words = f"{segment.label}: {label_map.volume_ml(segment.number):.2f} ml"
        draw.text((MARGIN + 26, y), words, _TEXT, _font(17))
    draw.text((MARGIN, top + 26 * len(segments) + 2), FOOTER, _FAINT, _font(14))


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
