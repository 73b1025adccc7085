"""The picture of a result: what must be seen on it. How it looks, a person must look at."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from node.core.anatomy import Segment
from node.core.volume import LabelMap, Volume
from node.dicom.overlay import overlay
from tests.models import HIPPOCAMPUS, SEGMENTS, STRUCTURE

RED = Segment(1, "Box", STRUCTURE, HIPPOCAMPUS, (255, 0, 0))


def _case(
    shape: tuple[int, int, int], spacing: tuple[float, float, float] = (2.0, 1.0, 1.0)
) -> tuple[Volume, LabelMap]:
    """Noise and no label yet; spacing (slice, row, column) mm."""
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = *spacing, 1.0
    noise = np.random.default_rng(5).normal(size=shape).astype(np.float32)
    return Volume(noise, affine, "1.2.3"), LabelMap(np.zeros(shape, np.uint8), affine, "1.2.3")


def _of_colour(picture: Image.Image, colour: tuple[int, int, int]) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = (np.asarray(picture.convert("RGB")) == colour).all(axis=2)
    return found


def test_each_segment_is_drawn_in_its_colour() -> None:
    volume, label_map = _case((20, 52, 36))
    label_map.array[4:12, 10:20, 10:20] = 1
    label_map.array[8:16, 25:35, 10:20] = 2
    picture = overlay(volume, label_map, SEGMENTS)
    outlined = [int(_of_colour(picture, segment.colour).sum()) for segment in SEGMENTS]
    assert outlined[0] > 1000
    assert outlined[1] > 1000
    assert outlined[2] == 0


def test_an_outline_runs_along_the_voxels_it_encloses() -> None:
    volume, label_map = _case((1, 8, 8))
    label_map.array[0, 2:6, 1:4] = 1
    picture = overlay(volume, label_map, [RED])
    red = _of_colour(picture, RED.colour)[:412, :412]  # one slice of 8 × 50 pixels in a margin
    rows, columns = np.flatnonzero(red.any(axis=1)), np.flatnonzero(red.any(axis=0))
    assert (rows[0] - 12, rows[-1] - 12) == (2 * 50, 6 * 50 - 1)
    assert (columns[0] - 12, columns[-1] - 12) == (1 * 50, 4 * 50 - 1)
    assert not red[12 + 200, 12 + 100], "the inside stays to be seen"


def test_neighbours_do_not_hide_each_others_outline() -> None:
    volume, label_map = _case((1, 8, 8))
    label_map.array[0, 2:6, 1:4], label_map.array[0, 2:6, 4:7] = 1, 2
    picture = overlay(volume, label_map, SEGMENTS)
    left, right = (_of_colour(picture, s.colour)[212, :412] for s in SEGMENTS[:2])
    assert left[12 + 200 - 1]
    assert right[12 + 200]


@pytest.mark.parametrize("spacing", [(2.0, 1.0, 1.0), (2.0, 3.0, 1.0), (2.0, 0.5, 0.75)])
def test_a_square_in_mm_is_a_square_in_the_picture(spacing: tuple[float, float, float]) -> None:
    rows, columns = round(12 / spacing[1]), round(12 / spacing[2])
    volume, label_map = _case((1, 3 * rows, 3 * columns), spacing)
    label_map.array[0, rows : 2 * rows, columns : 2 * columns] = 1
    red = _of_colour(overlay(volume, label_map, [RED]), RED.colour)
    red[-80:] = False  # the legend
    high, wide = np.ptp(np.flatnonzero(red.any(axis=1))), np.ptp(np.flatnonzero(red.any(axis=0)))
    assert high == pytest.approx(wide, rel=0.02)


def test_small_slices_are_enlarged_and_large_ones_are_not_reduced() -> None:
    small = overlay(*_case((6, 52, 36)), [RED])
    large = overlay(*_case((6, 512, 512)), [RED])
    assert small.width >= 3 * 36 * 8
    assert large.width >= 3 * 512


def test_slices_without_a_label_are_not_chosen_where_others_have_one() -> None:
    volume, label_map = _case((40, 16, 16))
    label_map.array[30, 4:9, 4:9] = 1
    one = overlay(volume, label_map, [RED])
    label_map.array[31:34, 4:9, 4:9] = 1
    four = overlay(volume, label_map, [RED])
    assert one.width < four.width


def test_nothing_found_is_shown_too() -> None:
    volume, label_map = _case((10, 16, 16))
    picture = overlay(volume, label_map, [RED])
    assert not _of_colour(picture, RED.colour).any()
    assert picture.height > 0


def test_a_constant_volume_and_labels_of_sixteen_bits_make_no_trouble() -> None:
    volume, label_map = _case((3, 16, 16))
    array = np.zeros((3, 16, 16), np.uint16)
    array[:, 4:9, 4:9] = 700
    flat = replace(volume, array=np.full((3, 16, 16), 7.0, np.float32))
    picture = overlay(flat, replace(label_map, array=array), [replace(RED, number=700)])
    assert _of_colour(picture, RED.colour).any()


def test_a_hundred_segments_fit_in_the_legend() -> None:
    volume, label_map = _case((6, 64, 64))
    label_map.array[...] = np.arange(64) % 100 + 1
    many = [replace(RED, number=n, label=f"structure {n}") for n in range(1, 105)]
    picture = overlay(volume, label_map, many)
    assert picture.height < 3 * picture.width
