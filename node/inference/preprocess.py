"""Volumes as the network was trained to see them: transposed, cropped, normalised, resampled.

The order is nnU-Net's (nnunetv2 preprocessing/preprocessors/default_preprocessor.py). float32
throughout; every step on the CPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes

from node.core.errors import SeriesRejected
from node.inference.plans import Normalization, Plan
from node.inference.resampling import Resampling, Shape, new_shape, resampling

Box = tuple[slice, slice, slice]
_EPSILON = 1e-8  # default_normalization_schemes.py
_AIR_HU, _AIR_MARGIN_HU = -900.0, 10.0
_LEAST_CLIPPED_HU = -500.0  # a lower bound above it says nothing of air


@dataclass(frozen=True, eq=False)
class Case:
    """What the network sees, and the way back.

    image: float32 (channel, slice, row, column) on the network's grid, in the plans' axis order.
    shape: of the whole Volume in that order; box: the part of it that was not cropped away.
    to_source: brings one head's logits back onto the cropped grid. air: below this normalised
    value there is nothing, or None where the modality does not say.
    """

    image: torch.Tensor
    shape: Shape
    box: Box
    to_source: Resampling
    air: float | None


def preprocess(
    channels: Sequence[NDArray[np.float32]],
    spacing_mm: Sequence[float],
    plan: Plan,
    previous: NDArray[np.generic] | None = None,
) -> Case:
    """Arrays (slice, row, column), one per channel, with their spacing in mm in that order.

    previous: a cascade's labels of the previous stage, on the same grid. Raises SeriesRejected
    for intensities that the model's normalisation does not take.
    """
    arrays = [array.transpose(plan.transpose_forward) for array in channels]
    spacing = [spacing_mm[axis] for axis in plan.transpose_forward]
    box = nonzero_box(arrays)
    cropped = [array[box] for array in arrays]
    target = target_spacing(plan, spacing)
    shape = new_shape(cropped[0].shape, spacing, target)
    if 0 in shape:
        raise SeriesRejected(
            f"on the model's grid of {_mm(target)} mm nothing is left of {_mm(spacing)} mm × "
            f"{cropped[0].shape} voxels"
        )
    forth = resampling(plan.image_rule, cropped[0].shape, shape, spacing, target)
    shape = forth.new_shape  # the old one, where the plans do not resample
    before = None if previous is None else _marked(previous, cropped, plan, box)
    mask = _mask(cropped, plan, before)
    images = [
        forth.apply(torch.from_numpy(normalise(array, rule, mask)))
        for array, rule in zip(cropped, plan.normalizations, strict=True)
    ]
    if before is not None:
        images += _one_hot(before, plan, shape, spacing, target)
    whole = arrays[0].shape
    return Case(
        image=torch.stack(images),
        shape=(whole[0], whole[1], whole[2]),
        box=box,
        to_source=resampling(plan.logits_rule, shape, cropped[0].shape, target, spacing),
        air=_air(plan.normalizations),
    )


def target_spacing(plan: Plan, spacing_mm: Sequence[float]) -> list[float]:
    """The network's spacing; a 2D configuration leaves the distance of the slices alone."""
    missing = len(spacing_mm) - len(plan.spacing_mm)
    return [*spacing_mm[:missing], *plan.spacing_mm]


def nonzero_box(arrays: Sequence[NDArray[np.float32]]) -> Box:
    """The smallest box that holds every voxel that is not 0 in some channel; else everything.

    nnU-Net fills the holes of the mask before (cropping.py), which no box can tell.
    """
    shape = arrays[0].shape
    box = [slice(0, size) for size in shape]
    for axis in range(3):
        filled = (i for i in range(shape[axis]) if _any(arrays, box, axis, i))
        first = next(filled, None)
        if first is None:
            return slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2])
        last = next(i for i in reversed(range(shape[axis])) if _any(arrays, box, axis, i))
        box[axis] = slice(first, last + 1)
    return box[0], box[1], box[2]


def _any(arrays: Sequence[NDArray[np.float32]], box: list[slice], axis: int, index: int) -> bool:
    where = tuple(slice(index, index + 1) if a == axis else part for a, part in enumerate(box))
    return any(bool(array[where].any()) for array in arrays)


def _filled(arrays: Sequence[NDArray[np.float32]]) -> NDArray[np.bool_]:
    """Where any channel is not 0, with its holes (cropping.py)."""
    filled: NDArray[np.bool_] = binary_fill_holes(np.logical_or.reduce([a != 0 for a in arrays]))
    return filled


def _marked(
    previous: NDArray[np.generic], arrays: Sequence[NDArray[np.float32]], plan: Plan, box: Box
) -> NDArray[np.int16]:
    """The previous stage's labels in the crop; −1 outside the body where it found nothing."""
    labels = previous.transpose(plan.transpose_forward)[box].astype(np.int16)
    labels[(labels == 0) & ~_filled(arrays)] = -1
    return labels


def _mask(
    arrays: Sequence[NDArray[np.float32]], plan: Plan, marked: NDArray[np.int16] | None
) -> NDArray[np.bool_] | None:
    """Where intensities count for a normalisation that asks, or None: none does."""
    if not any(rule.use_mask for rule in plan.normalizations):
        return None
    return _filled(arrays) if marked is None else marked >= 0


def normalise(
    array: NDArray[np.float32], rule: Normalization, mask: NDArray[np.bool_] | None
) -> NDArray[np.float32]:
    """One channel by the plans' scheme, as a new array (default_normalization_schemes.py)."""
    image = np.array(array, dtype=np.float32, order="C")
    match rule.scheme:
        case "CTNormalization":
            _ct(image, rule)
        case "ZScoreNormalization" if rule.use_mask and mask is not None:
            inside = image[mask]
            image[mask] = (inside - inside.mean()) / max(inside.std(), _EPSILON)
        case "ZScoreNormalization":
            mean, deviation = image.mean(), image.std()
            image -= mean
            image /= max(deviation, _EPSILON)
        case "RescaleTo01Normalization":
            image -= image.min()
            image /= max(image.max(), _EPSILON)
        case "RGBTo01Normalization":
            _require_8_bits(image)
            image /= 255.0
    return image


def _ct(image: NDArray[np.float32], rule: Normalization) -> None:
    lower, upper = rule.statistics["percentile_00_5"], rule.statistics["percentile_99_5"]
    deviation = max(rule.statistics["std"], _EPSILON)
    torch.from_numpy(image).clamp_(lower, upper).sub_(rule.statistics["mean"]).div_(deviation)


def _require_8_bits(image: NDArray[np.float32]) -> None:
    if image.min() < 0 or image.max() > 255:
        raise SeriesRejected(
            f"the model takes intensities of 0 to 255, not {image.min():g} to {image.max():g}"
        )


def _air(rules: Sequence[Normalization]) -> float | None:
    """Of a CT, after normalisation, a little above air, for resampling rounds.

    None where a channel is no CT, or where the scheme clips fat as if it were air.
    """
    (rule, *others) = rules
    if rule.scheme != "CTNormalization" or others:
        return None
    lower = rule.statistics["percentile_00_5"]
    if lower > _LEAST_CLIPPED_HU:
        return None
    hu = max(_AIR_HU, lower) + _AIR_MARGIN_HU
    return float((hu - rule.statistics["mean"]) / max(rule.statistics["std"], _EPSILON))


def _one_hot(
    marked: NDArray[np.int16],
    plan: Plan,
    shape: Shape,
    spacing: Sequence[float],
    target: Sequence[float],
) -> list[torch.Tensor]:
    """The previous stage's labels on the network's grid, one channel per foreground label.

    Where several labels meet, nnU-Net's own function decides; −1 counts as one of them.
    """
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

    resample = ConfigurationManager(dict(plan.configuration)).resampling_fn_seg
    found = np.asarray(resample(marked[None], shape, list(spacing), list(target)))[0]
    return [
        torch.from_numpy((found == label).astype(np.float32)) for label in plan.heads.foreground
    ]


def _mm(values: Sequence[float]) -> str:
    return " × ".join(f"{value:g}" for value in values)
