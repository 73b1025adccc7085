"""Tilted and unevenly spaced slices: refused, or resampled and the labels brought back."""

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import highdicom
import numpy as np
import pytest
from pydicom import dcmread

from node.core.errors import SeriesRejected
from node.core.model import InputRules
from node.core.volume import LabelMap
from node.dicom.assemble import Stack, stack
from tests.answers import CREATED_AT, encode, file_bytes, verify
from tests.models import SEGMENTS, UIDS, make_model, source_of
from tests.series_factory import make_series
from tests.spheres import CASES, CENTRE_MM, RADIUS_MM, TILTED, sphere_series

RESAMPLE = InputRules(resample=True)


def _labelled(made: Stack) -> LabelMap:
    """What a network would say: 1 where it is bright, on the regular grid."""
    volume = made.volume
    labels = (volume.array > 500).astype(np.uint8)
    return LabelMap(labels, volume.affine, volume.frame_of_reference_uid)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_it_is_refused_unless_the_model_says_resample(case: tuple[float, np.ndarray]) -> None:
    source = source_of(sphere_series(*case))
    with pytest.raises(SeriesRejected, match=r"unequal spacing|sheared by 16\.7°"):
        stack(source, InputRules())
    made = stack(source, RESAMPLE)
    axes = made.volume.affine[:3, :3] / np.linalg.norm(made.volume.affine[:3, :3], axis=0)
    assert np.allclose(axes.T @ axes, np.eye(3), atol=1e-6)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_sphere_lies_where_it_is_on_the_grid_and_back_on_its_slices(
    case: tuple[float, np.ndarray],
) -> None:
    source = source_of(sphere_series(*case))
    made = stack(source, RESAMPLE)
    label_map = _labelled(made)
    inside = np.argwhere(label_map.array)
    points = inside @ made.volume.affine[:3, :3].T + made.volume.affine[:3, 3]
    assert np.linalg.norm(points.mean(axis=0) - CENTRE_MM) < 0.3
    back = made.labels_on_planes(label_map)
    directly = np.stack(
        [one.pixel_array > 500 for one in sorted(source.instances, key=lambda o: o.InstanceNumber)]
    )
    overlap = 2 * np.sum(directly & (back.array > 0)) / (directly.sum() + (back.array > 0).sum())
    assert overlap > 0.96
    sphere_ml = 4 / 3 * np.pi * RADIUS_MM**3 / 1000
    assert back.volume_ml(1) == pytest.approx(sphere_ml, rel=0.05)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_result_lies_on_the_source_slices_and_says_that_it_was_resampled(
    tmp_path: Path, case: tuple[float, np.ndarray]
) -> None:
    source = source_of(sphere_series(*case))
    made = stack(source, RESAMPLE)
    labels, model = made.labels_on_planes(_labelled(made)), make_model(SEGMENTS[:1])
    file = file_bytes(encode(labels, model, source, UIDS, CREATED_AT, made.planes))
    verify(file, labels, model, source, made.planes)
    dataset = dcmread(BytesIO(file))
    assert dataset.SeriesDescription == "Segmentation: Hippocampus (resampled)"
    (algorithm,) = dataset.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence
    assert "resampled=onto a regular grid" in algorithm.AlgorithmParameters
    read = highdicom.seg.segread(BytesIO(file))
    uids = [plane.sop_instance_uid for plane in made.planes]
    masks = read.get_pixels_by_source_instance(
        uids, combine_segments=True, assert_missing_frames_are_empty=True
    )
    assert np.array_equal(masks, labels.array)


def test_a_regular_series_is_not_resampled_where_it_might_be() -> None:
    source = source_of(make_series())
    made = stack(source, RESAMPLE)
    assert made.regular is None
    assert np.array_equal(made.volume.array, stack(source, InputRules()).volume.array)


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        ((0.0, np.delete(np.arange(0.0, 45.0, 2.0), 9)), "a slice is missing there"),
        ((0.0, np.delete(np.arange(0.0, 45.0, 2.0), [9, 11])), "a slice is missing there"),
        ((0.0, np.r_[0.0:30.0:2.0, 45.0:60.0:2.0]), "more than the 10 mm that are interpolated"),
        ((0.9, np.arange(0.0, 45.0, 2.0)), r"42\.0° is more than the 35°"),
        ((0.0, np.r_[0.0:60.0:6.0, 54.3:60.0:0.3]), r"slices would be made of|more than"),
    ],
)
def test_what_would_have_to_be_invented_is_refused_all_the_same(
    case: tuple[float, np.ndarray], sentence: str
) -> None:
    with pytest.raises(SeriesRejected, match=f"cannot be resampled: .*{sentence}"):
        stack(source_of(sphere_series(*case)), RESAMPLE)


def test_a_slice_beside_the_line_of_a_tilted_series_is_refused() -> None:
    instances = sphere_series(*TILTED)
    x, y, z = instances[5].ImagePositionPatient
    instances[5].ImagePositionPatient = [x + 1.0, y, z]
    with pytest.raises(SeriesRejected, match=r"slice 6 .* lies 1\.00 mm off the line"):
        stack(source_of(instances), RESAMPLE)


def test_a_label_moved_off_its_source_slice_is_caught() -> None:
    source = source_of(sphere_series(*TILTED))
    made = stack(source, RESAMPLE)
    labels, model = made.labels_on_planes(_labelled(made)), make_model(SEGMENTS[:1])
    assert labels.positions is not None
    file = file_bytes(encode(labels, model, source, UIDS, CREATED_AT, made.planes))
    moved = replace(labels, positions=labels.positions + np.array([0.0, 0.02, 0.0]))
    with pytest.raises(Exception, match=r"lies 0\.020 mm off slice"):
        verify(file, moved, model, source, made.planes)
