"""Tiles, weights and padding against nnU-Net's own."""

import numpy as np
import pytest
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from hypothesis import given
from hypothesis import strategies as st
from nnunetv2.inference.sliding_window_prediction import (
    compute_gaussian,
    compute_steps_for_sliding_window,
)

from node.inference.tiles import Sum, gaussian, mirrors, not_air, pad, tiles

sizes = st.integers(1, 60)


@given(st.tuples(sizes, sizes, sizes), st.tuples(sizes, sizes, sizes), st.sampled_from([0.5, 0.8]))
def test_tiles_lie_where_nnunet_lays_them(
    more: tuple[int, int, int], patch: tuple[int, int, int], step: float
) -> None:
    shape = tuple(a + b for a, b in zip(more, patch, strict=True))
    starts = compute_steps_for_sliding_window(shape, patch, step)
    wanted = [(z, y, x) for z in starts[0] for y in starts[1] for x in starts[2]]
    found = tiles(shape, patch, step)
    assert [tuple(part.start for part in tile) for tile in found] == wanted
    assert {tuple(part.stop - part.start for part in tile) for tile in found} == {patch}


def test_a_2d_patch_goes_through_slice_by_slice() -> None:
    found = tiles((3, 8, 8), (8, 8), 0.5)
    assert [tile[0] for tile in found] == [slice(0, 1), slice(1, 2), slice(2, 3)]


@pytest.mark.parametrize("patch", [(8, 12, 16), (9, 12), (40, 56, 40)])
def test_weights_are_those_of_nnunet(patch: tuple[int, ...]) -> None:
    cpu = torch.device("cpu")
    wanted = compute_gaussian(patch, value_scaling_factor=10, device=cpu)
    assert torch.equal(gaussian(patch, cpu), wanted)


@pytest.mark.parametrize("patch", [(20, 9, 14), (5, 5, 5), (9, 14)])
def test_padding_is_that_of_nnunet(patch: tuple[int, ...]) -> None:
    image = torch.rand(2, 7, 9, 11)
    wanted, inside = pad_nd_image(image, patch, "constant", {"value": 0}, True, None)
    found, mine = pad(image, patch)
    assert torch.equal(found, wanted)
    assert mine == inside[1:]


def test_mirrors_come_in_nnunets_order() -> None:
    assert mirrors((0, 2)) == [(), (1,), (3,), (1, 3)]
    assert mirrors(None) == [()]


def test_tiles_wholly_in_air_are_left_out_and_become_background() -> None:
    image = torch.full((1, 4, 4, 8), -5.0)
    image[0, 2, 2, 6] = 0.0
    places = tiles((4, 4, 8), (4, 4, 4), 0.5)
    shown = list(not_air(image, places, air=-4.0))
    assert [tile[2].start for tile in shown] == [4]
    total = Sum.empty(2, (4, 4, 8), torch.device("cpu"))
    for tile in shown:
        total.add(tile, torch.tensor([0.0, 3.0]).reshape(2, 1, 1, 1).expand(2, 4, 4, 4).clone(),
                  torch.ones(4, 4, 4).half())  # fmt: skip
    labels = total.mean([1.0, -1.0]).argmax(0)
    assert np.unique(labels[..., :4].numpy()).tolist() == [0]
    assert np.unique(labels[..., 4:].numpy()).tolist() == [1]


def test_nothing_is_air_where_the_modality_does_not_say() -> None:
    places = tiles((4, 4, 8), (4, 4, 4), 0.5)
    assert list(not_air(torch.zeros(1, 4, 4, 8), places, air=None)) == places
