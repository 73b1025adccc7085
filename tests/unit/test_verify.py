"""The gate catches what must never leave."""

from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from node.core.errors import Fatal
from node.dicom.seg import file_bytes
from node.dicom.verify import verify
from tests.unit.test_seg import a_model, a_source, encoded, labels_on


def _flip_a_bit(segmentation: Dataset) -> None:
    pixels = bytearray(segmentation.PixelData)
    pixels[57] ^= 8
    segmentation.PixelData = bytes(pixels)


def _swap_planes(segmentation: Dataset) -> None:
    groups = segmentation.PerFrameFunctionalGroupsSequence
    one, other = groups[0].PlanePositionSequence, groups[1].PlanePositionSequence
    groups[0].PlanePositionSequence, groups[1].PlanePositionSequence = other, one


def _move_a_plane(segmentation: Dataset) -> None:
    place = segmentation.PerFrameFunctionalGroupsSequence[3].PlanePositionSequence[0]
    x, y, z = place.ImagePositionPatient
    place.ImagePositionPatient = [x + 0.02, y, z]


def _turn(segmentation: Dataset) -> None:
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]


def _stretch(segmentation: Dataset) -> None:
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    shared.PixelMeasuresSequence[0].PixelSpacing = [1.0, 0.51]


def _other_frame_of_reference(segmentation: Dataset) -> None:
    segmentation.FrameOfReferenceUID = "1.2.3"


def _other_study(segmentation: Dataset) -> None:
    segmentation.StudyInstanceUID = "1.2.3"


def _foreign_reference(segmentation: Dataset) -> None:
    derivation = segmentation.PerFrameFunctionalGroupsSequence[2].DerivationImageSequence[0]
    derivation.SourceImageSequence[0].ReferencedSOPInstanceUID = "1.2.3"


def _exchange_names(segmentation: Dataset) -> None:
    one, other = segmentation.SegmentSequence
    one.SegmentLabel, other.SegmentLabel = other.SegmentLabel, one.SegmentLabel


def _exchange_segments(segmentation: Dataset) -> None:
    for groups in segmentation.PerFrameFunctionalGroupsSequence:
        item = groups.SegmentIdentificationSequence[0]
        item.ReferencedSegmentNumber = 3 - item.ReferencedSegmentNumber


def _drop_a_segment(segmentation: Dataset) -> None:
    segmentation.SegmentSequence.pop()


def _cut_pixels(segmentation: Dataset) -> None:
    segmentation.PixelData = segmentation.PixelData[:-2]


def _no_positions(segmentation: Dataset) -> None:
    del segmentation.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence


@pytest.mark.parametrize(
    "damage",
    [
        _flip_a_bit,
        _swap_planes,
        _move_a_plane,
        _turn,
        _stretch,
        _other_frame_of_reference,
        _other_study,
        _foreign_reference,
        _exchange_names,
        _exchange_segments,
        _drop_a_segment,
        _cut_pixels,
        _no_positions,
    ],
)
def test_a_damaged_segmentation_does_not_pass(damage: Callable[[Dataset], None]) -> None:
    source = a_source()
    label_map = labels_on(source)
    segmentation = dcmread(BytesIO(file_bytes(encoded(source, label_map))))
    damage(segmentation)
    with pytest.raises(Fatal, match="must not leave"):
        verify(file_bytes(segmentation), label_map, a_model(), source)


def test_the_undamaged_one_passes_but_not_against_another_label_map() -> None:
    source = a_source()
    label_map = labels_on(source)
    file = file_bytes(encoded(source, label_map))
    verify(file, label_map, a_model(), source)
    other = labels_on(source, seed=1)
    assert not np.array_equal(other.array, label_map.array)
    with pytest.raises(Fatal, match="voxels differ"):
        verify(file, other, a_model(), source)
