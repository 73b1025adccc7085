"""Made CT volumes and logits: smooth where bodies and networks are, and the same every time."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

AIR, FAT, MUSCLE = -1000.0, -100.0, 50.0  # HU
NOISE, TEXTURE = 12.0, 15.0  # HU, standard deviations

# Centre and radii along (slice, row, column), in halves of the volume; HU.
_ORGANS: Sequence[tuple[tuple[float, float, float], tuple[float, float, float], float]] = (
    ((0.0, 0.0, 0.0), (2.5, 0.70, 0.85), FAT),
    ((0.0, 0.0, 0.0), (2.5, 0.62, 0.77), MUSCLE),
    ((0.9, -0.05, -0.40), (0.9, 0.42, 0.28), -820.0),  # a lung
    ((0.9, -0.05, 0.40), (0.9, 0.42, 0.28), -820.0),
    ((-0.1, -0.10, -0.35), (0.5, 0.38, 0.33), 110.0),  # liver
    ((-0.1, 0.15, 0.50), (0.4, 0.22, 0.14), 125.0),  # spleen
    ((-0.6, 0.25, -0.28), (0.5, 0.13, 0.10), 180.0),  # a kidney
    ((-0.6, 0.25, 0.28), (0.5, 0.13, 0.10), 180.0),
    ((0.0, 0.12, 0.03), (2.5, 0.05, 0.04), 160.0),  # aorta
    ((0.0, 0.40, 0.0), (2.5, 0.12, 0.10), 450.0),  # spine
)


def body(shape: tuple[int, int, int], seed: int = 0) -> NDArray[np.float32]:
    """A body in air, (slice, row, column): whole HU as float32, organs with soft edges, noise."""
    voxels = np.full(shape, AIR, np.float32)
    inside = np.zeros(shape, np.float32)
    for centre, radii, hu in _ORGANS:
        weight = _ellipsoid(shape, centre, radii)
        voxels += weight * (hu - voxels)
        inside = np.maximum(inside, weight)
    random = np.random.default_rng(seed)
    texture = blobs(random, shape).numpy() * TEXTURE
    noise = random.standard_normal(shape, dtype=np.float32) * NOISE
    whole: NDArray[np.float32] = np.rint(voxels + texture * inside + noise).clip(-1024, 3071)
    return whole


def blobs(random: np.random.Generator, shape: Sequence[int], blob: int = 12) -> torch.Tensor:
    """Smooth noise of mean 0 and deviation about 1 (slice, row, column), `blob` voxels a wave."""
    coarse = random.standard_normal([n // blob + 3 for n in shape], dtype=np.float32)
    fine = torch.nn.functional.interpolate(
        torch.from_numpy(coarse)[None, None], size=tuple(shape), mode="trilinear"
    )
    return fine[0, 0] * 2  # interpolation halves the deviation


def logits(heads: int, shape: Sequence[int], seed: int = 0) -> torch.Tensor:
    """Half logits (head, slice, row, column) like a network's: blobs, much of it background.

    Made head by head: hardly more memory than the result takes.
    """
    random = np.random.default_rng(seed)
    made = torch.empty((heads, *shape), dtype=torch.half)
    for head in range(heads):
        made[head] = blobs(random, shape) * 4
    made[0] += 8
    return made


def _ellipsoid(
    shape: tuple[int, int, int],
    centre: tuple[float, float, float],
    radii: tuple[float, float, float],
) -> NDArray[np.float32]:
    """1 inside, 0 outside, soft over a twentieth of the radius."""
    square = np.zeros((1, 1, 1), np.float32)
    for axis in range(3):
        along = np.linspace(-1, 1, shape[axis], dtype=np.float32)
        along = ((along - centre[axis]) / radii[axis]) ** 2
        square = square + along.reshape([-1 if at == axis else 1 for at in range(3)])
    weight: NDArray[np.float32] = ((1 - np.sqrt(square)) * 20).clip(0, 1)
    return weight
