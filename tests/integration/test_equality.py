"""The same answer as nnU-Net, for every kind of model that its plans can describe."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from node.core.model import Profile
from node.inference.model import load_model
from node.inference.plans import read_plan
from node.inference.preprocess import preprocess
from node.inference.segmenter import NnunetSegmenter
from tests.kinds import KINDS, SHAPE, SPACING, case
from tests.model_factory import make_model_folder, noise_volume
from tests.stock import stock_labels

pytestmark = pytest.mark.slow

AGREEMENT = {"torch": 0.99999, "openvino": 0.9999}  # of all voxels
LEAST_DICE = 0.999


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
