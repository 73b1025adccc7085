"""Every kind of model that nnU-Net's plans can describe, and Volumes for it."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from node.core.model import Model
from node.core.volume import Volume
from tests.model_factory import make_cascade, make_model_folder, noise_volume

SHAPE, SPACING = (20, 32, 36), (1.6, 1.1, 0.9)
THICK = (4.5, 1.1, 0.9)  # more than three times: slices are resampled on their own
Make = Callable[[Path], Path]
REGIONS = {"background": 0, "whole": [1, 2], "core": [2]}
IGNORE = {"background": 0, "one": 1, "two": 2, "ignore": 3}
CT = {"mean": 0.1, "std": 0.9, "percentile_00_5": -1.5, "percentile_99_5": 1.5}


def resampled_by(function: str, **arguments: Any) -> dict[str, Any]:
    """Settings for plans that resample images and logits in another way."""
    return {
        f"resampling_fn_{what}{suffix}": value
        for what in ("data", "probabilities")
        for suffix, value in (("", function), ("_kwargs", arguments))
    }


TORCH = resampled_by("resample_torch_fornnunet", force_separate_z=None)
SPLINES = resampled_by("resample_data_or_seg_to_shape", order=3, order_z=1, force_separate_z=None)
UNCHANGED = resampled_by("no_resampling_hack")
IMAGES_UNCHANGED = {key: value for key, value in UNCHANGED.items() if "_data" in key}
BOTH_AT_ONCE = resampled_by("resample_data_or_seg_to_shape", order=3, force_separate_z=False)
MASKED = {"use_mask_for_norm": [True]}
UNSAID = resampled_by("resample_data_or_seg_to_shape", order=3)
KINDS: dict[str, tuple[Make, tuple[float, float, float]]] = {
    "isotropic": (partial(make_model_folder), SPACING),
    "anisotropic": (
        partial(make_model_folder, patch=(8, 24, 24), spacing=(4.0, 1.0, 1.0)),
        THICK,
    ),
    "thick slices on an isotropic grid": (partial(make_model_folder), THICK),
    "2D": (partial(make_model_folder, patch=(16, 24), spacing=(1.0, 1.5)), SPACING),
    "2D, thick slices": (partial(make_model_folder, patch=(24, 24)), THICK),
    "cascade": (partial(make_cascade), SPACING),
    "cascade, transposed": (
        partial(make_cascade, transpose_forward=(2, 0, 1), mirrors=(0, 1)),
        SPACING,
    ),
    "cascade, normalised within a mask": (partial(make_cascade, settings=MASKED), SPACING),
    "two folds": (partial(make_model_folder, folds=("0", "1")), SPACING),
    "regions": (partial(make_model_folder, labels=REGIONS, regions_class_order=(1, 2)), SPACING),
    "regions in another order": (
        partial(make_model_folder, labels=REGIONS, regions_class_order=(2, 5)),
        SPACING,
    ),
    "ignore label": (partial(make_model_folder, labels=IGNORE), SPACING),
    "two channels": (partial(make_model_folder, channels=2), SPACING),
    "transposed": (
        partial(make_model_folder, transpose_forward=(2, 0, 1), patch=(8, 16, 24)),
        SPACING,
    ),
    "residual encoder": (partial(make_model_folder, residual=True), SPACING),
    "smaller than the patch": (partial(make_model_folder, patch=(48, 64, 40)), SPACING),
    "mirrors": (partial(make_model_folder, mirrors=(0, 1, 2)), SPACING),
    "two mirrors of a 2D network": (
        partial(make_model_folder, patch=(16, 24), spacing=(1.0, 1.5), mirrors=(0, 1)),
        SPACING,
    ),
    "CT": (partial(make_model_folder, ct_intensities=CT), SPACING),
    "normalised within a mask": (partial(make_model_folder, settings=MASKED), SPACING),
    "resampled by torch": (partial(make_model_folder, settings=TORCH), SPACING),
    "resampled by torch, thick slices": (partial(make_model_folder, settings=TORCH), THICK),
    "logits resampled by splines": (partial(make_model_folder, settings=SPLINES), SPACING),
    "slices by splines, then linear": (partial(make_model_folder, settings=SPLINES), THICK),
    "thick slices all at once": (partial(make_model_folder, settings=BOTH_AT_ONCE), THICK),
    "thick slices, plans that do not say how": (
        partial(make_model_folder, settings=UNSAID),
        THICK,
    ),
    "not resampled": (partial(make_model_folder, settings=UNCHANGED), SPACING),
    "images not resampled": (partial(make_model_folder, settings=IMAGES_UNCHANGED), SPACING),
    "already on the grid": (partial(make_model_folder), (1.0, 1.0, 1.0)),
}


def case(model: Model, spacing: Sequence[float]) -> list[Volume]:
    """Noise with empty margins, one Volume per channel; nnU-Net crops what is 0 everywhere."""
    volumes = [
        noise_volume(SHAPE, (spacing[0], spacing[1], spacing[2]), channel=number)
        for number in range(len(model.channels))
    ]
    for volume in volumes:
        volume.array[:3] = 0
        volume.array[:, :, -4:] = 0
        volume.array[10:14, 10:14, 10:14] = 0
    return volumes
