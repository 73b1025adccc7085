"""One slice as a viewer drew it, against the labels that must be on it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

# Of 255: above what smoothing makes of grey, below what half transparent colours leave.
COLOURED = 16
# On the canvas, the border of a segment is not sharper than that; its outline lies within it.
BORDER_PIXELS = 1

Colour = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Picture:
    """What is on the canvas of a viewport: (row, column, RGB)."""

    pixels: NDArray[np.uint8]

    def on_canvas(
        self, plane: NDArray[np.generic], spacing_mm: tuple[float, float]
    ) -> NDArray[np.generic]:
        """Values of (row, column) voxels where the slice lies on the canvas; 0 around it.

        It lies in the middle, as large as it fits. spacing_mm: between rows, between columns.
        """
        height, width = self.pixels.shape[:2]
        rows, columns = plane.shape
        scale = min(height / (rows * spacing_mm[0]), width / (columns * spacing_mm[1]))
        row, inside_rows = _voxel_of_each_pixel(height, rows, scale * spacing_mm[0])
        column, inside_columns = _voxel_of_each_pixel(width, columns, scale * spacing_mm[1])
        values: NDArray[np.generic] = plane[np.ix_(row, column)]
        return np.where(np.outer(inside_rows, inside_columns), values, 0)

    def labels(self, colours: Sequence[Colour]) -> NDArray[np.int_]:
        """Each pixel's label by its hue: n for the nth colour, 0 for grey."""
        tint, hues = _tint(self.pixels), _tint(np.asarray(colours))
        nearest = np.argmax(tint @ (hues / np.linalg.norm(hues, axis=1, keepdims=True)).T, axis=2)
        return np.where(tint.max(axis=2) > COLOURED, nearest + 1, 0)

    def differences(
        self,
        labels: NDArray[np.generic],
        spacing_mm: tuple[float, float],
        colours: Sequence[Colour],
    ) -> list[str]:
        """Where the drawn labels are not those of the (row, column) plane, in words.

        Judged are all pixels but those about a border, which belongs to either side.
        """
        due = self.on_canvas(labels, spacing_mm)
        judged = ~_near_a_border(due)
        drawn = self.labels(colours)
        wrong = judged & (drawn != due)
        return [
            f"{np.sum(wrong & (due == label))} of {np.sum(judged & (due == label))} pixels of "
            f"label {label} are drawn as {np.unique(drawn[wrong & (due == label)]).tolist()}"
            for label in np.unique(due[wrong]).tolist()
        ]

    def likeness(self, plane: NDArray[np.generic], spacing_mm: tuple[float, float]) -> float:
        """Correlation of what is grey with a plane of the source; every fourth pixel will do."""
        few = np.s_[::4, ::4]
        pixels, inside = self.pixels[few], self.on_canvas(np.ones(plane.shape), spacing_mm)[few]
        grey = (_tint(pixels).max(axis=2) <= COLOURED) & (inside == 1)
        drawn, wanted = pixels[grey].mean(axis=1), self.on_canvas(plane, spacing_mm)[few][grey]
        if not wanted.any():
            return 0.0
        return float(np.corrcoef(drawn, wanted.astype(np.float64))[0, 1])


def _voxel_of_each_pixel(
    pixels: int, voxels: int, scale: float
) -> tuple[NDArray[np.int_], NDArray[np.bool_]]:
    """The index of the voxel below the middle of each pixel, and whether there is one."""
    index = np.floor((np.arange(pixels) + 0.5 - pixels / 2) / scale + voxels / 2).astype(int)
    return index.clip(0, voxels - 1), (index >= 0) & (index < voxels)


def _tint(colours: NDArray[np.generic]) -> NDArray[np.float64]:
    """What of a colour is not grey; grey that shines through leaves its direction as it is."""
    rgb = colours.astype(np.float64)
    tint: NDArray[np.float64] = rgb - rgb.min(axis=-1, keepdims=True)
    return tint


def _near_a_border(labels: NDArray[np.generic]) -> NDArray[np.bool_]:
    size = 2 * BORDER_PIXELS + 1
    near: NDArray[np.bool_] = ndimage.maximum_filter(labels, size) != ndimage.minimum_filter(
        labels, size
    )
    return near
