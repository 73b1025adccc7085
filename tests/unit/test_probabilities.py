"""Probabilities by blocks against the plain way: all heads resampled, rounded, then the softmax."""

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from node.core.errors import Fatal, Temporary
from node.core.model import InputRules
from node.core.volume import LabelMap
from node.dicom.assemble import stack
from node.inference.crew import Crew
from node.inference.plans import SPLINE, Heads, Rule
from node.inference.probabilities import probabilities, require_room
from tests.exports import COARSE, RULE, blobs, case, labels_of, plainly
from tests.models import source_of
from tests.spheres import CASES, sphere_series

SPLINES = Rule(SPLINE, order=3)
GB = 1_000_000_000


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    crew = Crew(2)
    yield crew
    crew.close()


def rounded(values: torch.Tensor) -> NDArray[np.int16]:
    """Bytes, in a type that can be subtracted."""
    return (values * 255).round().numpy().astype(np.int16)


def test_they_are_the_softmax_of_all_heads_and_nothing_outside_the_crop(crew: Crew) -> None:
    logits = blobs(24) * 3  # far apart: in most blocks most labels are impossible
    found = probabilities(logits, case(), RULE, labels_of(24), crew)
    wanted = rounded(torch.from_numpy(plainly(logits)).float().softmax(0))
    assert list(found) == list(range(1, 24))
    assert np.mean(wanted[1:] == 0) > 0.5
    for label, one in found.items():
        inside = one.numpy().astype(np.int16)[1:-1, 1:-1, 1:-1]
        assert np.abs(inside - wanted[label]).max() <= 1
        assert np.mean(inside == wanted[label]) > 0.999
        assert inside.max() > 200
        assert int(one.sum()) == inside.sum()


def test_a_region_has_a_probability_of_its_own_under_the_number_that_it_paints(crew: Crew) -> None:
    logits, order = blobs(3), (2, 5, 1)
    found = probabilities(logits, case(), RULE, Heads(3, (1, 2, 5), order), crew)
    assert list(found) == [2, 5, 1]
    for head, label in enumerate(order):
        wanted = rounded(torch.from_numpy(plainly(logits)[head]).float().sigmoid())
        inside = found[label].numpy().astype(np.int16)[1:-1, 1:-1, 1:-1]
        assert np.abs(inside - wanted).max() <= 1
        assert np.mean(inside == wanted) > 0.999


@pytest.mark.parametrize("order", [None, (2, 5, 1)], ids=["labels", "regions"])
def test_what_overshoots_is_taken_head_by_head(order: tuple[int, ...] | None, crew: Crew) -> None:
    logits, way = blobs(3), case(rule=SPLINES)
    heads = labels_of(3) if order is None else Heads(3, (1, 2, 5), order)
    found = probabilities(logits, way, SPLINES, heads, crew)
    values = torch.stack([way.to_source.apply(head.float()).half().float() for head in logits])
    wanted = rounded(values.softmax(0) if order is None else values.sigmoid())
    for head, label in heads.shown.items():
        inside = found[label].numpy().astype(np.int16)[1:-1, 1:-1, 1:-1]
        assert np.abs(inside - wanted[head]).max() <= 1


def test_logits_that_are_no_numbers_have_no_probabilities(crew: Crew) -> None:
    logits = blobs(3)
    logits[1, 10, 18, 36] = float("nan")
    with pytest.raises(Fatal, match="not all finite"):
        probabilities(logits, case(), RULE, labels_of(3), crew)
    with pytest.raises(ValueError, match="logits of"):
        probabilities(blobs(3)[..., :-1], case(), RULE, labels_of(3), crew)


def test_without_resampling_nothing_is_interpolated(crew: Crew) -> None:
    logits = blobs(5)
    found = probabilities(logits, case(COARSE), RULE, labels_of(5), crew)
    wanted = rounded(logits.float().softmax(0))
    for label, one in found.items():
        inside = one.numpy().astype(np.int16)[1:-1, 1:-1, 1:-1]
        assert np.abs(inside - wanted[label]).max() <= 1


HUNGRY = """
import torch
from bench.inference import memory
from node.inference.crew import Crew
from node.inference.footprint import keep_freed_memory
from node.inference.plans import SPLINE, Heads, Rule
from node.inference.preprocess import Case
from node.inference.probabilities import probabilities
from node.inference.resampling import resampling

def found(heads, coarse, fine):
    rule, everything = Rule(SPLINE, {order}), (slice(None),) * 3
    to_source = resampling(rule, coarse, fine, (1.5,) * 3, (1.5, 0.5, 0.5))
    case = Case(torch.empty(0), fine, everything, to_source, None)
    logits = torch.randn(heads, *coarse).half()
    held = memory.resident()
    memory.forget_peak()
    labels = tuple(range(1, heads))
    made = probabilities(logits, case, rule, Heads(heads, labels, None), crew)
    return memory.peak() - held

crew = Crew(2)
keep_freed_memory()
found(3, (8, 16, 16), (8, 48, 48))  # what is slow and large only once
print(found(31, (40, 64, 64), (40, 256, 256)))
"""


@pytest.mark.parametrize("order", [1, 3], ids=["linear", "splines"])
def test_little_more_is_held_than_the_bytes_themselves(order: int) -> None:
    """All heads at once would be 325 MB in single precision, and twice that with their softmax."""
    result = 30 * 40 * 256 * 256
    program = HUNGRY.replace("{order}", str(order))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < result + 100_000_000


def test_too_many_are_refused_before_the_network_runs_saying_what_to_set() -> None:
    require_room(5, (120, 512, 512), 1 * GB)
    with pytest.raises(Fatal) as refused:
        require_room(117, (500, 512, 512), 999 * GB)
    assert str(refused.value) == (
        "the probabilities of 117 labels for 500 × 512 × 512 voxels are 15.3 GB, and 4.0 GB is "
        'the most: set segmentation = "binary" or "labelmap" in [peers.NAME.results] of those '
        'that want "fractional", then rerun the Job'
    )


def test_a_machine_that_is_full_for_now_is_no_reason_for_good() -> None:
    with pytest.raises(Temporary, match=r"are 0\.2 GB, and at most a quarter of the 0\.5 GB"):
        require_room(5, (120, 512, 512), GB // 2)


@pytest.mark.parametrize("name", CASES)
def test_they_come_back_onto_tilted_and_uneven_slices_as_the_labels_do(name: str) -> None:
    made = stack(source_of(sphere_series(*CASES[name])), InputRules(resample=True))
    volume = made.volume
    labels = (volume.array > 500).astype(np.uint8)
    found = {1: labels * 200, 2: np.full_like(labels, 7)}
    on_grid = LabelMap(labels, volume.affine, "1.2.3", probabilities=found)
    back = made.labels_on_planes(on_grid)
    assert back.array.any()
    assert back.probabilities is not None
    np.testing.assert_array_equal(back.probabilities[1], back.array * 200)
    np.testing.assert_array_equal(back.probabilities[2], np.full_like(back.array, 7))
    without = made.labels_on_planes(LabelMap(labels, volume.affine, "1.2.3"))
    assert without.probabilities is None
    np.testing.assert_array_equal(without.array, back.array)
