"""Positions that were written with one or two decimals: how far each may be off by that alone.

A position is off by half of its last written decimal at most, in each coordinate. So is the even
step between slices a little, and a gap by a whole decimal: 0.625 mm become 0.6 and 0.7. That is
allowed only where no missing slice can look like it: where any mixture of gaps of one and of two
steps, rounded, has a gap that is further from the mean than rounding explains.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

_DECIMALS: Final = (1, 2)  # of more nobody need know; whole millimetres may have been one decimal
_EXACT: Final = 1e-6


def written_step_mm(points: Vector) -> Vector:
    """The last written decimal of x, y and z over all points, mm; 0 for a finer one."""
    return np.array([_step(column) for column in points.T], float)


def rounding_mm(points: Vector, normal: Vector) -> float:
    """By how much gaps between sorted points along the normal may differ from their mean.

    0 where that could hide a missing slice.
    """
    gaps = np.diff(points @ normal)
    if len(gaps) < 2:
        return 0.0
    decimal = float(np.abs(normal) @ written_step_mm(points))
    # Of even steps each coordinate's rounded ones take two neighbouring values at most.
    if float(np.ptp(gaps)) > decimal + _EXACT:
        return 0.0
    rounding = decimal * (1 + 1 / len(gaps)) + _EXACT
    # Gaps of one and of two steps, half of each, lie half a step from their mean, less a decimal.
    least_step = float(gaps.min()) - decimal
    return rounding if 4 * rounding < least_step else 0.0


def off_grid_mm(points: Vector, normal: Vector) -> float:
    """How far sorted points may lie from even steps between the first and the last, by rounding."""
    if rounding_mm(points, normal) == 0.0:
        return 0.0
    return float(np.linalg.norm(written_step_mm(points))) + _EXACT


def _step(values: Vector) -> float:
    for decimals in _DECIMALS:
        scaled = values * 10.0**decimals
        if (np.abs(scaled - np.round(scaled)) < _EXACT * 10.0**decimals).all():
            return float(10.0**-decimals)
    return 0.0
