"""Labels by blocks against the plain way: every head resampled, rounded, the first maximum."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from node.core.errors import Fatal
from node.inference.blocks import by_cell
from node.inference.crew import Crew
from node.inference.export import export
from node.inference.plans import SPLINE, Heads, Rule
from tests.exports import COARSE, FINE, RULE, blobs, case, labels_of, plainly


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    crew = Crew(2)
    yield crew
    crew.close()


def test_labels_are_the_first_maximum_of_the_rounded_logits(crew: Crew) -> None:
    logits = blobs(24)
    found = export(logits, case(), RULE, labels_of(24), crew).numpy()
    wanted = plainly(logits).argmax(0)
    assert len(np.unique(wanted)) > 15
    np.testing.assert_array_equal(found[1:-1, 1:-1, 1:-1], wanted)
    assert not found[0].any()
    assert found.dtype == np.uint8


def test_of_equal_heads_the_first_wins(crew: Crew) -> None:
    logits = blobs(3)
    logits[2] = logits[1]
    found = export(logits, case(), RULE, labels_of(3), crew).numpy()[1:-1, 1:-1, 1:-1]
    np.testing.assert_array_equal(found, plainly(logits).argmax(0))
    assert set(np.unique(found)) == {0, 1}


def test_regions_are_painted_one_over_the_other(crew: Crew) -> None:
    logits, order = blobs(3), (2, 5, 1)
    found = export(logits, case(), RULE, Heads(3, (1, 2, 5), order), crew).numpy()
    wanted = np.zeros(FINE, np.uint8)
    for head, number in zip(plainly(logits), order, strict=True):
        wanted[torch.sigmoid(torch.from_numpy(head).float()).numpy() > 0.5] = number
    np.testing.assert_array_equal(found[1:-1, 1:-1, 1:-1], wanted)
    assert set(np.unique(wanted)) == {0, 1, 2, 5}


def test_more_than_254_labels_are_counted_in_16_bits(crew: Crew) -> None:
    logits = blobs(300)
    found = export(logits, case(), RULE, labels_of(300), crew)
    assert found.dtype == torch.int16
    np.testing.assert_array_equal(found.numpy()[1:-1, 1:-1, 1:-1], plainly(logits).argmax(0))


def test_without_resampling_nothing_is_interpolated(crew: Crew) -> None:
    logits = blobs(5)
    found = export(logits, case(COARSE), RULE, labels_of(5), crew).numpy()
    np.testing.assert_array_equal(found[1:-1, 1:-1, 1:-1], logits.numpy().argmax(0))


@pytest.mark.parametrize("rule", [RULE, Rule(SPLINE, 3)])
def test_logits_that_do_not_come_back_onto_the_crop_are_a_bug_and_no_answer(
    rule: Rule, crew: Crew
) -> None:
    smaller = replace(case(rule=rule), box=(slice(0, 5), slice(1, -1), slice(1, -1)))
    with pytest.raises(ValueError, match=r"\(11, 90, 141\) voxels for a crop of \(5, 90, 141\)"):
        export(blobs(3), smaller, rule, labels_of(3), crew)


def test_logits_of_another_grid_than_their_case_are_a_bug_and_no_answer(crew: Crew) -> None:
    with pytest.raises(ValueError, match=r"logits of \(11, 19, 36\) voxels, not \(11, 19, 37\)"):
        export(blobs(3)[..., :-1], case(), RULE, labels_of(3), crew)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("order", [1, 3])
def test_logits_that_are_no_numbers_are_no_answer(value: float, order: int, crew: Crew) -> None:
    rule = Rule(SPLINE, order)
    logits = blobs(3)
    logits[1, 10, 18, 36] = value
    with pytest.raises(Fatal, match="not all finite"):
        export(logits, case(rule=rule), rule, labels_of(3), crew)


def test_neighbours_always_share_a_cell() -> None:
    logits = torch.zeros(1, 1, 20)
    logits[0, 0, 8] = 1.0
    assert by_cell(logits, torch.amax).tolist() == [[[1.0, 1.0, 0.0]]]
