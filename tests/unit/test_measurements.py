"""What is measured of a Segment, judged by formulas, SimpleITK and the mesh of scikit-image."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.distance import pdist
from skimage.measure import marching_cubes

from node.core.model import InputRules
from node.core.volume import LabelMap, Volume
from node.dicom.results.report.measurements import Measured, measure, rounded
from node.dicom.results.report.recount import count_again
from tests.answers import answer_of
from tests.models import source_of
from tests.spheres import CASES, RADIUS_MM, sphere_series


def _grid(array: NDArray[np.uint8], spacing: tuple[float, float, float]) -> LabelMap:
    """On a grid that is turned in space: distances and volumes must not care."""
    turn = np.linalg.qr(np.array([[1.0, 2.0, 0.5], [-0.3, 1.0, 2.0], [2.0, 0.1, 1.0]]))[0]
    affine = np.eye(4)
    affine[:3, :3] = turn * spacing
    affine[:3, 3] = (-100.0, 20.0, 400.0)
    return LabelMap(array, affine, "1.2.3")


def _measured(array: NDArray[np.uint8], spacing: tuple[float, float, float]) -> Measured:
    values = np.random.default_rng(1).normal(40.0, 9.0, array.shape).astype(np.float32)
    label_map = _grid(array, spacing)
    volume = Volume(values, label_map.affine, "1.2.3")
    return measure(label_map, label_map, volume)[1]


def _ellipsoid(
    radii_mm: tuple[float, float, float], spacing: tuple[float, float, float]
) -> NDArray[np.uint8]:
    sizes = [int(radius / step) + 2 for radius, step in zip(radii_mm, spacing, strict=True)]
    axes = [np.arange(-n, n + 1) * step for n, step in zip(sizes, spacing, strict=True)]
    grid = np.meshgrid(*axes, indexing="ij")
    off = sum((axis / radius) ** 2 for axis, radius in zip(grid, radii_mm, strict=True))
    return np.asarray(off <= 1.0, np.uint8)


@pytest.mark.parametrize("radii_mm", [(20.0, 20.0, 20.0), (12.0, 25.0, 18.0), (30.0, 6.0, 9.0)])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 0.7, 0.9)])
def test_an_ellipsoid_has_the_volume_and_diameter_of_its_formula(
    radii_mm: tuple[float, float, float], spacing: tuple[float, float, float]
) -> None:
    found = _measured(_ellipsoid(radii_mm, spacing), spacing)
    assert found.volume_ml == pytest.approx(4 / 3 * np.pi * np.prod(radii_mm) / 1000, rel=0.02)
    assert found.diameter_mm == pytest.approx(2 * max(radii_mm), abs=max(spacing))


def test_mean_and_deviation_are_those_of_simpleitk_and_numpy() -> None:
    array = _ellipsoid((9.0, 6.0, 5.0), (1.0, 1.0, 1.0))
    values = np.random.default_rng(2).normal(-800.0, 50.0, array.shape).astype(np.float32)
    label_map = _grid(array, (1.0, 1.0, 1.0))
    found = measure(label_map, label_map, Volume(values, label_map.affine, "1.2.3"))[1]
    statistics = sitk.LabelStatisticsImageFilter()
    statistics.Execute(sitk.GetImageFromArray(values), sitk.GetImageFromArray(array))
    assert found.intensities is not None
    assert found.intensities.mean == pytest.approx(statistics.GetMean(1), rel=1e-6)
    population = statistics.GetSigma(1) * np.sqrt(1 - 1 / statistics.GetCount(1))
    assert found.intensities.deviation == pytest.approx(population, rel=1e-6)
    assert found.intensities.deviation == pytest.approx(float(values[array > 0].std()), rel=1e-5)


@settings(deadline=None, max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 7), st.integers(1, 9), st.integers(1, 9)),
    spacing=st.tuples(*[st.floats(0.3, 6.0)] * 3),
    density=st.sampled_from([0.03, 0.3, 0.9, 1.0]),
    seed=st.integers(0, 2**31),
)
def test_the_diameter_is_that_of_the_mesh_that_scikit_image_draws(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    density: float,
    seed: int,
) -> None:
    array = (np.random.default_rng(seed).random(shape) < density).astype(np.uint8)
    array[0, 0, 0] = 1
    draw: Callable[..., Any] = marching_cubes
    vertices, *_ = draw(np.pad(array, 1).astype(float), 0.5, spacing=spacing)
    found = _measured(array, spacing)
    assert found.diameter_mm == pytest.approx(float(pdist(vertices).max()), rel=1e-5)


def test_the_diameter_is_within_a_voxel_of_the_feret_diameter_of_simpleitk() -> None:
    array = _ellipsoid((12.0, 25.0, 18.0), (1.0, 1.0, 1.0))
    shape = sitk.LabelShapeStatisticsImageFilter()
    shape.ComputeFeretDiameterOn()
    shape.Execute(sitk.GetImageFromArray(array))
    found = _measured(array, (1.0, 1.0, 1.0))
    assert 0 < found.diameter_mm - shape.GetFeretDiameter(1) <= 1.0


@pytest.mark.parametrize(
    ("shape", "diameter_mm"),
    [((1, 1, 1), 3.0), ((1, 1, 5), 5.0), ((1, 4, 1), 8.0), ((6, 1, 1), 18.0)],
)
def test_a_voxel_and_a_line_of_voxels_are_as_long_as_they_are(
    shape: tuple[int, int, int], diameter_mm: float
) -> None:
    found = _measured(np.ones(shape, np.uint8), (3.0, 2.0, 1.0))
    assert found.diameter_mm == diameter_mm
    assert found.volume_ml == pytest.approx(np.prod(shape) * 0.006)


def test_a_flat_segment_of_very_long_voxels_is_measured() -> None:
    array = np.ones((1, 60, 60), np.uint8)
    found = _measured(array, (1000.0, 0.001, 0.001))
    assert found.diameter_mm == 1000.0


def test_one_value_everywhere_has_no_deviation_and_keeps_its_digits() -> None:
    array = np.ones((4, 5, 6), np.uint8)
    label_map = _grid(array, (1.0, 1.0, 1.0))
    values = np.full(array.shape, 12345.678, np.float32)
    found = measure(label_map, label_map, Volume(values, label_map.affine, "1.2.3"))[1]
    assert found.intensities is not None
    assert found.intensities.mean == 12345.68
    assert found.intensities.deviation == 0.0


def test_a_segment_with_values_that_are_no_numbers_has_no_mean() -> None:
    array = np.ones((2, 3, 4), np.uint8)
    label_map = _grid(array, (1.0, 1.0, 1.0))
    values = np.full(array.shape, np.inf, np.float32)
    volume = Volume(values, label_map.affine, "1.2.3")
    with np.errstate(invalid="ignore"):
        assert measure(label_map, label_map, volume)[1].intensities is None
    assert count_again(label_map, label_map, volume)[1].mean is None


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_slices_that_are_tilted_or_uneven_are_measured_where_they_lie(
    case: tuple[float, NDArray[np.float64]],
) -> None:
    source = source_of(sphere_series(*case))
    bright = answer_of(source, rules=InputRules(resample=True)).volume.array > 500
    answer = answer_of(source, bright.astype(np.uint8), rules=InputRules(resample=True))
    found = measure(answer.label_map, answer.predicted, answer.volume)[1]
    assert found.volume_ml == pytest.approx(answer.label_map.volume_ml(1), rel=1e-6)
    assert found.diameter_mm == pytest.approx(2 * RADIUS_MM, abs=np.diff(case[1]).max())
    assert found.intensities is not None
    again = count_again(answer.label_map, answer.predicted, answer.volume)[1]
    assert found.diameter_mm == pytest.approx(again.diameter_mm, rel=1e-6)
    assert found.volume_ml == pytest.approx(again.volume_ml, rel=1e-6)
    assert found.intensities.mean == pytest.approx(again.mean, rel=1e-6)


def test_a_label_that_the_network_did_not_see_on_its_grid_has_no_intensities() -> None:
    array = np.zeros((3, 4, 5), np.uint8)
    array[1, 1, 1] = 1
    label_map = _grid(array, (1.0, 1.0, 1.0))
    nothing = LabelMap(array * 0, label_map.affine, "1.2.3")
    volume = Volume(array.astype(np.float32), label_map.affine, "1.2.3")
    assert measure(label_map, nothing, volume)[1].intensities is None
    assert count_again(label_map, nothing, volume)[1].mean is None


def test_rounding_leaves_seven_digits_of_the_scale() -> None:
    assert rounded(1234.56789) == 1234.568
    assert rounded(0.000123456789) == 0.0001234568
    assert rounded(1.23456789e-9, scale=100.0) == 0.0
    assert str(rounded(-1e-12, scale=1.0)) == "0.0"
    assert rounded(0.0) == 0.0
    values = [rounded(10.0**power) for power in range(-20, 20)]
    assert all(low < high for low, high in pairwise(values))
