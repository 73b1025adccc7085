"""The gate: what is right passes, whatever its shape; what is wrong is named."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

from node.core.anatomy import Segment
from node.core.errors import Fatal
from node.core.model import Model, Profile
from node.core.volume import LabelMap
from node.dicom.assemble import assemble
from node.dicom.results.segmentation.decoded import frames, segment_volumes_ml
from node.dicom.series import SourceSeries
from tests.answers import CREATED_AT, encode, file_bytes, verify
from tests.models import HIPPOCAMPUS, RULES, SEGMENTS, STRUCTURE, UIDS, boxes, make_model, source_of
from tests.series_factory import make_series

LABELS = (1, 2, 3, 7, 255, 256, 700)


def _model_of(labels: Sequence[int]) -> Model:
    segments = [Segment(n, f"label {n}", STRUCTURE, HIPPOCAMPUS, (n % 256, 9, 9)) for n in labels]
    return make_model(segments)


def _orientation(turn: tuple[float, float, float]) -> tuple[float, ...]:
    """Any direction of rows and columns: three angles, radians; rounded as in a header."""
    a, b, c = turn
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(c), -np.sin(c)], [0, np.sin(c), np.cos(c)]])
    cosines = (about_z @ about_y @ about_x)[:, :2].T.ravel()
    return tuple(round(float(value), 9) for value in cosines)


@settings(deadline=None, max_examples=60)
@given(
    shape=st.tuples(st.integers(2, 7), st.integers(1, 9), st.integers(1, 9)),
    spacing=st.tuples(*[st.floats(0.3, 6.0).map(lambda mm: round(mm, 4))] * 3),
    turn=st.tuples(*[st.floats(-3.2, 3.2)] * 3),
    labels=st.lists(st.sampled_from(LABELS), unique=True, min_size=1),
    density=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    backwards=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_any_label_map_in_any_orientation_passes(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    turn: tuple[float, float, float],
    labels: list[int],
    density: float,
    backwards: bool,
    seed: int,
) -> None:
    random = np.random.default_rng(seed)
    voxels = np.zeros(shape, np.uint16)
    instances = make_series(spacing_mm=spacing, orientation=_orientation(turn), voxels=voxels)
    source = source_of([instances[i] for i in random.permutation(len(instances))])
    grid = assemble(source, RULES)
    array = random.choice(labels, shape) * (random.random(shape) < density)
    narrow = array.astype(np.uint16) if max(labels) > 255 else array.astype(np.uint8)
    affine = grid.affine.copy()
    if backwards:
        affine[:, 3] += (shape[0] - 1) * affine[:, 0]
        affine[:, 0] *= -1
    label_map = LabelMap(narrow, affine, grid.frame_of_reference_uid)
    model = _model_of(labels)
    file = file_bytes(encode(label_map, model, source, UIDS, CREATED_AT))
    verify(file, label_map, model, source)
    volumes = segment_volumes_ml(dcmread(BytesIO(file)))
    for segment in model.segments:
        expected = label_map.volume_ml(segment.number)
        assert volumes.get(segment.label, 0.0) == pytest.approx(expected, rel=1e-6)


@pytest.fixture
def source() -> SourceSeries:
    return source_of(make_series())


@pytest.fixture
def label_map(source: SourceSeries) -> LabelMap:
    return boxes(source)


def _flip_a_bit(dataset: Dataset) -> None:
    data = bytearray(dataset.PixelData)
    data[100] ^= 1 << 3
    dataset.PixelData = bytes(data)


def _cut_pixel_data(dataset: Dataset) -> None:
    dataset.PixelData = dataset.PixelData[:-2]


def _swap_positions(dataset: Dataset) -> None:
    one, other = dataset.PerFrameFunctionalGroupsSequence[2:4]
    one.PlanePositionSequence, other.PlanePositionSequence = (
        other.PlanePositionSequence,
        one.PlanePositionSequence,
    )


def _swap_planes(dataset: Dataset) -> None:
    """Positions and references together: only the voxels tell."""
    _swap_positions(dataset)
    one, other = dataset.PerFrameFunctionalGroupsSequence[2:4]
    one.DerivationImageSequence, other.DerivationImageSequence = (
        other.DerivationImageSequence,
        one.DerivationImageSequence,
    )


def _move(millimetres: float) -> Callable[[Dataset], None]:
    def move(dataset: Dataset) -> None:
        position = dataset.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence[0]
        x, y, z = position.ImagePositionPatient
        position.ImagePositionPatient = [x, y + millimetres, z]

    return move


def _turn(dataset: Dataset) -> None:
    plane = dataset.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    plane.ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]


def _tilt_a_little(dataset: Dataset) -> None:
    plane = dataset.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    plane.ImageOrientationPatient = [0.999998, 0.002, 0, -0.002, 0.999998, 0]


def _stretch(dataset: Dataset) -> None:
    dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [1.0, 0.51]


def _thicken(dataset: Dataset) -> None:
    dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices = 2.1


def _transpose(dataset: Dataset) -> None:
    dataset.Rows, dataset.Columns = dataset.Columns, dataset.Rows


def _add_a_segment(dataset: Dataset) -> None:
    extra = dcmread(BytesIO(file_bytes(dataset))).SegmentSequence[1]
    extra.SegmentNumber = 3
    dataset.SegmentSequence.append(extra)


def _swap_labels(dataset: Dataset) -> None:
    one, other = dataset.SegmentSequence
    one.SegmentLabel, other.SegmentLabel = other.SegmentLabel, one.SegmentLabel


def _recode(dataset: Dataset) -> None:
    dataset.SegmentSequence[1].SegmentedPropertyTypeCodeSequence[0].CodeValue = "1"


def _reassign(dataset: Dataset) -> None:
    frame = dataset.PerFrameFunctionalGroupsSequence[-1]
    frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber = 3


def _repeat(dataset: Dataset) -> None:
    one, other = dataset.PerFrameFunctionalGroupsSequence[:2]
    other.PlanePositionSequence = one.PlanePositionSequence
    other.DerivationImageSequence = one.DerivationImageSequence


def _overlap(dataset: Dataset) -> None:
    size = dataset.Rows * dataset.Columns // 8
    dataset.PixelData = b"\xff" * size + dataset.PixelData[size:-size] + b"\xff" * size
    first, last = (dataset.PerFrameFunctionalGroupsSequence[i] for i in (0, -1))
    last.PlanePositionSequence = first.PlanePositionSequence
    last.DerivationImageSequence = first.DerivationImageSequence


def _refer_elsewhere(dataset: Dataset) -> None:
    derivation = dataset.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0]
    derivation.SourceImageSequence[0].ReferencedSOPInstanceUID = "1.2.3"


def _refer_to_another_series(dataset: Dataset) -> None:
    references = dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    references[0].ReferencedSOPInstanceUID = "1.2.3"


def _refer_to_nothing(dataset: Dataset) -> None:
    dataset.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence = []


def _lose_a_group(dataset: Dataset) -> None:
    del dataset.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence


def _set(keyword: str, value: object) -> Callable[[Dataset], None]:
    return lambda dataset: setattr(dataset, keyword, value)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (_flip_a_bit, "1 voxels differ from the label map; the first is"),
        (_cut_pixel_data, "Pixel Data has"),
        (_swap_positions, "frame 3 .Segment 1. lies 2.000 mm off"),
        (_swap_planes, "overlaps a frame before it"),
        (_move(0.5), "frame 3 .Segment 1. lies 0.500 mm off"),
        (_move(0.02), "frame 3 .Segment 1. lies 0.020 mm off"),
        (_turn, "orientation or spacing puts the last of the columns 15.000 mm off"),
        (_tilt_a_little, "orientation or spacing puts the last of the rows 0.046 mm off"),
        (_stretch, "orientation or spacing puts the last of the columns"),
        (_thicken, "orientation or spacing puts the last of the slices"),
        (_transpose, "its planes are 16 × 24"),
        (_add_a_segment, "it has 3 Segments, not 2"),
        (_swap_labels, 'Segment 1 is labelled "Posterior", not "Anterior"'),
        (_recode, "Segment 2 is coded 1, not 5366008"),
        (_reassign, "of an unknown Segment"),
        (_repeat, "is on slice 3, and so is one before it"),
        (_overlap, "overlaps a frame before it"),
        (_refer_elsewhere, "refers to 1.2.3, which is not in the source Series"),
        (_refer_to_another_series, "1.2.3 is not in the source Series"),
        (_refer_to_nothing, "does not say which Instance"),
        (_lose_a_group, "a frame has no PlanePositionSequence"),
        (_set("FrameOfReferenceUID", "1.2.3"), "Frame of Reference is 1.2.3, not"),
        (_set("StudyInstanceUID", "1.2.3"), "StudyInstanceUID is not the source's"),
        (_set("PatientID", "P2"), "PatientID is not the source's"),
        (_set("PatientName", "Müller^Anna"), "PatientName is not the source's"),
        (_set("SegmentationType", "FRACTIONAL"), "Segmentation Type is FRACTIONAL"),
        (_set("NumberOfFrames", 5), "5 frames are announced"),
    ],
)
def test_a_fault_is_caught_and_named(
    source: SourceSeries,
    label_map: LabelMap,
    spoil: Callable[[Dataset], None],
    sentence: str,
) -> None:
    file = file_bytes(encode(label_map, make_model(), source, UIDS, CREATED_AT))
    verify(file, label_map, make_model(), source)
    dataset = dcmread(BytesIO(file))
    spoil(dataset)
    with pytest.raises(Fatal, match=sentence):
        verify(file_bytes(dataset), label_map, make_model(), source)


def _forget_the_profile(dataset: Dataset) -> None:
    (algorithm,) = dataset.SegmentSequence[1].SegmentationAlgorithmIdentificationSequence
    algorithm.AlgorithmParameters = algorithm.AlgorithmParameters.partition(",profile=")[0]


def _name_another_profile(dataset: Dataset) -> None:
    (algorithm,) = dataset.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence
    algorithm.AlgorithmParameters = algorithm.AlgorithmParameters.replace("fast:", "fastest:")


def _lose_the_algorithm(dataset: Dataset) -> None:
    del dataset.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (_forget_the_profile, "Segment 2 states the profile exact, but was made with fast"),
        (_name_another_profile, "Segment 1 states the profile fastest, but was made with fast"),
        (_lose_the_algorithm, "lacks what a Segmentation must have"),
        (
            _set("SeriesDescription", "Segmentation: Hippocampus (profile fastest)"),
            "its Series Description does not name the profile fast",
        ),
    ],
)
def test_a_profile_that_is_not_stated_is_caught(
    source: SourceSeries,
    label_map: LabelMap,
    spoil: Callable[[Dataset], None],
    sentence: str,
) -> None:
    model = replace(make_model(), profile=Profile.FAST)
    file = file_bytes(encode(label_map, model, source, UIDS, CREATED_AT))
    verify(file, label_map, model, source)
    with pytest.raises(Fatal, match="Segment 1 states the profile fast, but was made with exact"):
        verify(file, label_map, make_model(), source)
    dataset = dcmread(BytesIO(file))
    spoil(dataset)
    with pytest.raises(Fatal, match=sentence):
        verify(file_bytes(dataset), label_map, model, source)


def test_every_single_bit_counts() -> None:
    source = source_of(make_series(voxels=np.zeros((2, 3, 5), np.uint16)))  # 15 bits a frame
    grid = assemble(source, RULES)
    array = np.random.default_rng(3).integers(0, 2, (2, 3, 5), np.uint8)
    label_map = LabelMap(array, grid.affine, grid.frame_of_reference_uid)
    file = file_bytes(encode(label_map, make_model(SEGMENTS[:1]), source, UIDS, CREATED_AT))
    dataset = dcmread(BytesIO(file))
    right = dataset.PixelData
    assert len(right) * 8 == 32  # two of them behind the last frame
    for bit in range(32):
        wrong = np.unpackbits(np.frombuffer(right, np.uint8), bitorder="little")
        wrong[bit] ^= 1
        dataset.PixelData = np.packbits(wrong, bitorder="little").tobytes()
        with pytest.raises(Fatal, match=r"differ|behind the last frame"):
            verify(file_bytes(dataset), label_map, make_model(SEGMENTS[:1]), source)


def test_a_lost_frame_is_caught(source: SourceSeries) -> None:
    grid = assemble(source, RULES)
    array: NDArray[np.uint8] = np.zeros(grid.array.shape, np.uint8)
    array[4, 5, 6] = array[5, 5, 6] = 1
    full = LabelMap(array, grid.affine, grid.frame_of_reference_uid)
    array = array.copy()
    array[5] = 0
    less = replace(full, array=array)
    file = file_bytes(encode(less, make_model(), source, UIDS, CREATED_AT))
    with pytest.raises(Fatal, match=r"first is .* \(5, 5, 6\): 0 in the Segm.*, 1 in the answer"):
        verify(file, full, make_model(), source)


def test_a_label_without_a_segment_is_caught(source: SourceSeries, label_map: LabelMap) -> None:
    file = file_bytes(encode(label_map, make_model(), source, UIDS, CREATED_AT))
    array = label_map.array.copy()
    array[0, 0, 0] = 4
    with pytest.raises(Fatal, match="label 4 of the label map is no Segment of hippocampus"):
        verify(file, replace(label_map, array=array), make_model(), source)


def test_another_series_is_caught(source: SourceSeries, label_map: LabelMap) -> None:
    file = file_bytes(encode(label_map, make_model(), source, UIDS, CREATED_AT))
    with pytest.raises(Fatal, match="StudyInstanceUID is not the source's"):
        verify(file, label_map, make_model(), source_of(make_series(name="another")))


@pytest.mark.parametrize("file", [b"", b"no DICOM at all", b"\0" * 128 + b"DICM\x02\0"])
def test_what_is_no_dicom_file_is_caught(
    source: SourceSeries, label_map: LabelMap, file: bytes
) -> None:
    with pytest.raises(Fatal, match="must not leave"):
        verify(file, label_map, make_model(), source)


def test_frames_say_where_they_lie_and_what_they_show(
    source: SourceSeries, label_map: LabelMap
) -> None:
    dataset = encode(label_map, make_model(), source, UIDS, CREATED_AT)
    first = next(frames(dataset))
    assert (first.number, first.segment_number) == (1, 1)
    assert first.position == pytest.approx(label_map.affine[:3, 3] + 3 * label_map.affine[:3, 0])
    assert np.array_equal(first.mask, label_map.array[3] == 1)
