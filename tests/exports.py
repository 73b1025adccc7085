"""Logits on a coarse grid, and their labels on a fine one the plain way."""

import numpy as np
import torch
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
from numpy.typing import NDArray

from node.inference.plans import SPLINE, Heads, Rule
from node.inference.preprocess import Case
from node.inference.resampling import resampling

COARSE, FINE = (11, 19, 37), (11, 90, 141)
COARSE_MM, FINE_MM = (1.5, 1.5, 1.5), (1.5, 0.32, 0.39)
RULE = Rule(SPLINE, order=1)


def case(shape: tuple[int, int, int] = FINE, rule: Rule = RULE) -> Case:
    """A Volume with one more voxel around, which was cropped away."""
    whole = (shape[0] + 2, shape[1] + 2, shape[2] + 2)
    box = (slice(1, -1), slice(1, -1), slice(1, -1))
    to_source = resampling(rule, COARSE, shape, COARSE_MM, FINE_MM)
    return Case(torch.empty(0), whole, box, to_source, None)


def blobs(heads: int, seed: int = 0) -> torch.Tensor:
    """Smooth logits, so that most blocks have few heads that can win."""
    noise = np.random.default_rng(seed).normal(size=(1, heads, 4, 4, 6)).astype(np.float32)
    smooth = torch.nn.functional.interpolate(torch.from_numpy(noise), COARSE, mode="trilinear")
    return (smooth[0] * 8).half()


def plainly(logits: torch.Tensor, shape: tuple[int, int, int] = FINE) -> NDArray[np.float16]:
    resampled: NDArray[np.float16] = resample_data_or_seg_to_shape(
        logits, shape, COARSE_MM, FINE_MM, order=1, order_z=0, force_separate_z=None
    )
    return resampled


def labels_of(count: int) -> Heads:
    return Heads(count, tuple(range(1, count)), None)
