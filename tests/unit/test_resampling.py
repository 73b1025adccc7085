"""Operators per axis against the functions they stand for."""

import numpy as np
import pytest
import torch
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
from nnunetv2.preprocessing.resampling.resample_torch import resample_torch_fornnunet
from numpy.typing import NDArray

from node.inference.plans import SPLINE, TRILINEAR, UNCHANGED, Rule
from node.inference.resampling import new_shape, resampling

SHAPE = (13, 24, 31)
NEAR = (1.6, 1.1, 0.9)
THICK = (4.0, 1.1, 0.9)
FINER, COARSER = (17, 40, 36), (9, 15, 22)


def image() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


@pytest.mark.parametrize("spacing", [NEAR, THICK], ids=["all at once", "slices on their own"])
@pytest.mark.parametrize("shape", [FINER, COARSER, (13, 40, 31)], ids=["finer", "coarser", "one"])
@pytest.mark.parametrize(("order", "order_z"), [(3, 0), (3, 1), (1, 0), (1, 1), (0, 0)])
def test_splines_are_those_of_nnunet(
    order: int, order_z: int, shape: tuple[int, int, int], spacing: tuple[float, float, float]
) -> None:
    rule = Rule(SPLINE, order, order_z)
    found = resampling(rule, SHAPE, shape, spacing, (1.0, 1.0, 1.0))
    wanted = resample_data_or_seg_to_shape(
        image()[None], shape, spacing, (1.0, 1.0, 1.0), order=order, order_z=order_z,
        force_separate_z=None,
    )  # fmt: skip
    np.testing.assert_allclose(found.apply(torch.from_numpy(image())).numpy(), wanted[0], atol=2e-5)


@pytest.mark.parametrize("spacing", [NEAR, THICK], ids=["all at once", "slices on their own"])
@pytest.mark.parametrize("shape", [FINER, COARSER], ids=["finer", "coarser"])
def test_torchs_interpolation_is_that_of_nnunet(
    shape: tuple[int, int, int], spacing: tuple[float, float, float]
) -> None:
    found = resampling(Rule(TRILINEAR, order=1), SHAPE, shape, spacing, (1.0, 1.0, 1.0))
    wanted = resample_torch_fornnunet(image()[None], shape, spacing, (1.0, 1.0, 1.0))
    np.testing.assert_allclose(found.apply(torch.from_numpy(image())).numpy(), wanted[0], atol=1e-5)


def test_splines_do_not_leave_the_range_of_the_image() -> None:
    step = np.zeros(SHAPE, np.float32)
    step[6:] = 1
    found = resampling(Rule(SPLINE), SHAPE, FINER, NEAR, (1.0, 1.0, 1.0))
    resampled = found.apply(torch.from_numpy(step))
    assert (float(resampled.min()), float(resampled.max())) == (0.0, 1.0)


def test_one_shape_is_left_as_it_is() -> None:
    given = torch.from_numpy(image())
    for rule, shape in ((Rule(SPLINE), SHAPE), (Rule(UNCHANGED), SHAPE)):
        assert resampling(rule, SHAPE, shape, NEAR, NEAR).apply(given) is given


def test_two_coarse_axes_are_not_resampled_on_their_own() -> None:
    spacing = (4.0, 4.0, 0.9)
    found = resampling(Rule(SPLINE), SHAPE, FINER, spacing, (1.0, 1.0, 1.0))
    wanted = resample_data_or_seg_to_shape(
        image()[None], FINER, spacing, (1.0, 1.0, 1.0), order=3, force_separate_z=None
    )
    np.testing.assert_allclose(found.apply(torch.from_numpy(image())).numpy(), wanted[0], atol=2e-5)


def test_shapes_are_rounded_half_to_even_as_nnunet_does() -> None:
    assert new_shape((5, 7, 10), (1.0, 1.0, 1.0), (2.0, 2.0, 4.0)) == (2, 4, 2)
