"""A sphere in slices that make no regular grid: tilted, unevenly spaced, or both."""

import numpy as np
from pydicom import Dataset

from tests.series_factory import make_series

CENTRE_MM, RADIUS_MM = np.array([-3.0, 36.0, 52.0]), 9.0


def sphere_series(step_y_mm: float, places_mm: np.ndarray) -> list[Dataset]:
    """A bright sphere in slices of 60×50 voxels of 1×0.5 mm, each at its place along z."""
    instances = make_series(len(places_mm), 60, 50, (1.0, 1.0, 0.5))
    for one, z in zip(instances, places_mm, strict=True):
        origin = np.array([-15.0, 5.0 + step_y_mm * z, 30.0 + z])
        one.ImagePositionPatient = [round(float(value), 6) for value in origin]
        rows, columns = np.indices((60, 50))
        x, y = origin[0] + 0.5 * columns, origin[1] + rows
        off = np.sqrt((x - CENTRE_MM[0]) ** 2 + (y - CENTRE_MM[1]) ** 2 + (origin[2] - 52.0) ** 2)
        voxels = np.clip((RADIUS_MM - off + 0.5) * 1000, 0, 1000)
        one.PixelData = voxels.astype("<u2").tobytes()
    return instances


TILTED = (0.3, np.arange(0.0, 45.0, 2.0))
TWO_SPACINGS = (0.0, np.r_[np.arange(0.0, 20.0, 1.5), np.arange(21.0, 46.0, 3.0)])
ONE_GAP = (0.0, np.r_[np.arange(0.0, 20.0, 2.0), np.arange(21.5, 46.0, 2.0)])
BOTH = (0.3, ONE_GAP[1])
CASES = {"tilted": TILTED, "two spacings": TWO_SPACINGS, "one gap": ONE_GAP, "both": BOTH}
