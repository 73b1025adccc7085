"""The same answer as nnU-Net, for every kind of model that its plans can describe."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from node.core.model import Model, Profile
from node.core.volume import Volume
from node.inference.model import load_model
from node.inference.plans import read_plan
from node.inference.preprocess import preprocess
from node.inference.segmenter import NnunetSegmenter
from tests.model_factory import make_cascade, make_model_folder, noise_volume
from tests.stock import stock_labels

AGREEMENT = {"torch": 0.99999, "openvino": 0.9999}  # of all voxels
LEAST_DICE = 0.999
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


def assert_same(found: NDArray[np.generic], wanted: NDArray[np.generic], agreement: float) -> None:
    assert found.shape == wanted.shape
    assert np.mean(found == wanted) >= agreement
    for label in np.unique(wanted):
        ours, theirs = found == label, wanted == label
        dice = 2 * np.count_nonzero(ours & theirs) / (ours.sum() + theirs.sum())
        assert dice >= LEAST_DICE, f"label {label}"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_gives_the_labels_that_nnunet_gives(kind: str, tmp_path: Path) -> None:
    make, spacing = KINDS[kind]
    model = load_model("m", make(tmp_path / "m"), "native")
    volumes = case(model, spacing)
    wanted = stock_labels(model, np.stack([volume.array for volume in volumes]), spacing)
    assert len(np.unique(wanted)) == 1 + len(model.segments)
    for backend, agreement in AGREEMENT.items():
        found = NnunetSegmenter(model, "cpu", backend=backend).segment(volumes)
        assert_same(found.array, wanted, agreement)


def test_the_profile_fast_is_nnunet_without_mirrors(tmp_path: Path) -> None:
    exact = load_model("m", make_model_folder(tmp_path / "m", mirrors=(0, 1, 2)), "native")
    fast = replace(exact, profile=Profile.FAST, fingerprint=_mark(tmp_path / "m", Profile.FAST))
    (volume,) = case(exact, SPACING)
    wanted = stock_labels(fast, volume.array[None], SPACING)
    found = NnunetSegmenter(fast, "cpu").segment([volume])
    assert_same(found.array, wanted, AGREEMENT["openvino"])
    assert (found.array != stock_labels(exact, volume.array[None], SPACING)).any()


def _mark(folder: Path, profile: Profile) -> str:
    return load_model("m", folder, "native", profile).fingerprint


def test_an_empty_volume_is_not_cropped_to_nothing(tmp_path: Path) -> None:
    model = load_model("m", make_model_folder(tmp_path / "m"), "native")
    volume = noise_volume(SHAPE, SPACING)
    volume.array[:] = 0
    assert preprocess([volume.array], SPACING, read_plan(model.folder, "3d_fullres")).box == (
        slice(0, SHAPE[0]),
        slice(0, SHAPE[1]),
        slice(0, SHAPE[2]),
    )
    assert stock_labels(model, volume.array[None], SPACING).shape == SHAPE
    found = NnunetSegmenter(model, "cpu", backend="torch").segment([volume])
    assert found.array.shape == SHAPE
