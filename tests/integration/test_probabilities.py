"""The same probabilities as nnU-Net, for every way in which they come about."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from node.core.model import Model, Profile
from node.core.volume import LabelMap, Volume
from node.inference.model import load_model
from node.inference.plans import read_plan
from node.inference.segmenter import NnunetSegmenter
from tests.images import TOLERANCE, axial_array, turned
from tests.kinds import CT, KINDS, case
from tests.model_factory import make_model_folder, noise_volume
from tests.stock import stock_probabilities

pytestmark = pytest.mark.slow

# Of every way in which probabilities come about, one; the rest is the way of the labels.
CHOSEN = (
    "anisotropic",
    "thick slices on an isotropic grid",
    "2D",
    "cascade, transposed",
    "two folds",
    "regions in another order",
    "ignore label",
    "transposed",
    "mirrors",
    "resampled by torch, thick slices",
    "logits resampled by splines",
    "slices by splines, then linear",
    "already on the grid",
)


def wanted_by_label(
    model: Model, volumes: Sequence[Volume], spacing: Sequence[float]
) -> dict[int, NDArray[np.float32]]:
    """nnU-Net's own, of each label that is not background."""
    array = np.stack([volume.array for volume in volumes])
    heads = read_plan(model.folder, model.configuration).heads
    found = stock_probabilities(model, array, spacing)
    return {label: found[head] for head, label in heads.shown.items()}


def assert_equal(found: LabelMap, wanted: dict[int, NDArray[np.float32]]) -> None:
    assert found.probabilities is not None
    assert found.probabilities.keys() == wanted.keys()
    for label, expected in wanted.items():
        array = found.probabilities[label]
        assert array.dtype == np.uint8
        assert array.shape == found.array.shape
        assert array.flags.c_contiguous
        assert np.abs(array / 255 - expected).max() <= TOLERANCE, f"label {label}"
        assert np.abs(array / 255 - expected).mean() <= 0.5 / 255
        assert array.max() > 60, f"label {label}"


@pytest.mark.parametrize("kind", CHOSEN)
def test_every_kind_of_model_gives_the_probabilities_that_nnunet_gives(
    kind: str, tmp_path: Path
) -> None:
    make, spacing = KINDS[kind]
    model = load_model("m", make(tmp_path / "m"), "native")
    volumes = case(model, spacing)
    segmenter = NnunetSegmenter(model, "cpu", backend="torch")
    found = segmenter.segment(volumes, probabilities=True)
    assert_equal(found, wanted_by_label(model, volumes, spacing))
    assert {segment.number for segment in model.segments} == set(found.probabilities or ())
    without = segmenter.segment(volumes)
    assert without.probabilities is None
    np.testing.assert_array_equal(found.array, without.array)


@pytest.mark.parametrize("letters", ["LPI", "PIR", "RAS"])
def test_they_lie_in_the_same_place_however_it_was_acquired(letters: str, tmp_path: Path) -> None:
    folder = make_model_folder(
        tmp_path / "m", patch=(8, 16, 16), spacing=(2.4, 1.0, 1.3), transpose_forward=(2, 0, 1)
    )
    segmenter = NnunetSegmenter(load_model("m", folder, "RAS"), "cpu", backend="torch")
    volume = noise_volume((9, 22, 17), (2.2, 1.1, 1.4))
    upright = segmenter.segment([volume], probabilities=True)
    other = segmenter.segment([turned(volume, letters)], probabilities=True)
    assert upright.probabilities is not None
    assert other.probabilities is not None
    for label, wanted in upright.probabilities.items():
        found = axial_array(replace(other, array=other.probabilities[label]))
        assert np.abs(found.astype(int) - wanted).max() <= 1


def test_in_air_that_the_profile_fastest_did_not_look_at_nothing_is_probable(
    tmp_path: Path,
) -> None:
    air = {**CT, "mean": 0.0, "std": 500.0, "percentile_00_5": -1000.0, "percentile_99_5": 900.0}
    folder = make_model_folder(tmp_path / "m", ct_intensities=air)
    model = load_model("m", folder, "native", Profile.FASTEST)
    volume = noise_volume((16, 16, 80), (1.0, 1.0, 1.0))
    volume.array[..., 16:] = -1000.0
    found = NnunetSegmenter(model, "cpu").segment([volume], probabilities=True).probabilities
    assert found is not None
    for one in found.values():
        assert one[..., :12].any()
        assert not one[..., 40:].any()
