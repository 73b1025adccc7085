"""Channels on the grid of the first."""

import numpy as np
import pytest
import SimpleITK as sitk

from node.core.errors import SeriesRejected
from node.core.volume import Volume
from node.dicom.align import align
from tests.images import image_of

FRAME = "1.2.3"
NAMES = ("CT", "PET")


def _volume(shape: tuple[int, int, int], affine: np.ndarray, frame: str = FRAME) -> Volume:
    """A smooth function of the place in the patient: every grid samples the same."""
    points = affine[:3, :3] @ np.indices(shape).reshape(3, -1) + affine[:3, 3:]
    values = 50 + points[0] * 2 - points[1] * 0.5 + points[2] * 3
    return Volume(values.reshape(shape).astype(np.float32), affine, frame)


def _affine(spacing: tuple[float, float, float], origin: tuple[float, float, float]) -> np.ndarray:
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = *spacing, 1.0
    affine[:3, 3] = origin
    return affine


def test_one_grid_stays_as_it_is() -> None:
    one = _volume((5, 6, 7), _affine((2, 1, 1), (0, 0, 0)))
    other = _volume((5, 6, 7), _affine((2, 1, 1), (0, 0, 0)))
    first, second = align([one, other], NAMES)
    assert (first, second) == (one, other)


def test_another_grid_is_sampled_where_the_first_has_its_voxels() -> None:
    one = _volume((10, 20, 24), _affine((2, 1, 1), (0, 0, 0)))
    turned = _affine((3, 2, 2), (-10, -10, -10))
    turned[:3, 1] *= -1.0
    turned[:3, 3] += [0, 60, 0]
    other = _volume((16, 40, 30), turned)
    _, aligned = align([one, other], NAMES)
    assert aligned.array.shape == one.array.shape
    assert np.array_equal(aligned.affine, one.affine)
    assert np.allclose(aligned.array, one.array, atol=1e-3)  # linear functions stay what they are


def test_it_samples_as_simple_itk_does() -> None:
    one = _volume((10, 20, 24), _affine((2, 1, 1), (0.3, 0.2, 0.1)))
    rng = np.random.default_rng(3)
    affine = _affine((1.7, 1.3, 1.1), (-2, -3, -4))
    other = Volume(rng.normal(size=(18, 24, 32)).astype(np.float32), affine, FRAME)
    _, aligned = align([one, other], NAMES)
    reference = sitk.Resample(image_of(other), image_of(one), sitk.Transform(), sitk.sitkLinear)
    assert np.allclose(aligned.array, sitk.GetArrayFromImage(reference), atol=1e-4)


def test_beyond_the_border_lies_the_lowest_value() -> None:
    one = _volume((10, 10, 10), _affine((1, 1, 1), (0, 0, 0)))
    other = _volume((8, 10, 10), _affine((1, 1, 1), (0, 0, 0)))
    _, aligned = align([one, other], NAMES)
    assert np.all(aligned.array[8:] == other.array.min())


def test_other_frames_of_reference_and_little_overlap_are_refused_with_names_and_numbers() -> None:
    one = _volume((10, 10, 10), _affine((1, 1, 1), (0, 0, 0)))
    with pytest.raises(
        SeriesRejected, match=r"channel PET and channel CT have no common .*: 9\.9 and 1\.2\.3"
    ):
        align([one, _volume((10, 10, 10), _affine((1, 1, 1), (0, 0, 0)), "9.9")], NAMES)
    with pytest.raises(SeriesRejected, match="only 30% of the latter's voxels lie within"):
        align([one, _volume((10, 10, 10), _affine((1, 1, 1), (0, 0, 7)))], NAMES)
