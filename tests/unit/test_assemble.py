"""What a series must be to become a volume, and the sentence it gets where it is not."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedMRImageStorage,
    JPEG2000Lossless,
    PositronEmissionTomographyImageStorage,
)

from node.core.errors import SeriesRejected
from node.core.model import InputRules
from node.core.names import SeriesInstanceUID
from node.core.volume import Volume
from node.dicom.assemble import admit, assemble
from node.dicom.series import SourceSeries
from tests.series_factory import AXIAL, CORONAL, SAGITTAL, make_series

RULES = InputRules(("MR",), 16, 0.4, 4.0)


def _assembled(instances: Sequence[Dataset], rules: InputRules = RULES) -> Volume:
    source = SourceSeries(SeriesInstanceUID("1.2"), tuple(instances))
    admit(source, rules)
    return assemble(source, rules)


@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL, CORONAL])
def test_every_voxel_lies_where_its_header_says(orientation: tuple[float, ...]) -> None:
    instances = make_series(orientation=orientation)
    volume = _assembled(instances)
    assert volume.spacing_mm == pytest.approx((2.0, 1.0, 0.5))
    for one in (instances[0], instances[7], instances[-1]):
        row, column = 5, 3
        cosines = np.asarray(one.ImageOrientationPatient, float)
        point = np.asarray(one.ImagePositionPatient, float) + cosines[:3] * 0.5 * column
        point = point + cosines[3:] * 1.0 * row  # PS3.3 C.7.6.2.1.1
        index = np.linalg.inv(volume.affine) @ [*point, 1.0]
        assert index[1:3] == pytest.approx((row, column), abs=1e-6)
        assert volume.array[round(index[0]), row, column] == one.pixel_array[row, column]


def test_the_order_in_which_slices_come_does_not_matter() -> None:
    instances = make_series()
    shuffled = [instances[i] for i in np.random.default_rng(1).permutation(len(instances))]
    one, other = _assembled(instances), _assembled(shuffled)
    assert np.array_equal(one.array, other.array)
    assert np.array_equal(one.affine, other.affine)


def test_each_slice_is_rescaled_by_its_own_slope() -> None:
    instances = make_series()
    for index, one in enumerate(instances):
        one.RescaleSlope, one.RescaleIntercept = 1.0 + index, -5.0
    volume = _assembled(instances)
    assert volume.array[3, 2, 1] == instances[3].pixel_array[2, 1] * 4.0 - 5.0


def _drop(index: int) -> Callable[[list[Dataset]], object]:
    return lambda instances: instances.pop(index)


def _set(index: int, keyword: str, value: object) -> Callable[[list[Dataset]], object]:
    return lambda instances: setattr(instances[index], keyword, value)


def _delete(index: int, keyword: str) -> Callable[[list[Dataset]], object]:
    return lambda instances: delattr(instances[index], keyword)


def _no_frame_of_reference(instances: list[Dataset]) -> None:
    for one in instances:
        del one.FrameOfReferenceUID


def _tilt(instances: list[Dataset]) -> None:
    for index, one in enumerate(instances):
        x, y, z = one.ImagePositionPatient
        one.ImagePositionPatient = [x, y + index * 0.67, z]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda s: s.__delitem__(slice(10, None)), "has 10 slices; the Model needs at least 16"),
        (_drop(9), r"unequal spacing: 4\.00 mm between slice 9 .* and slice 11 .*1 slice missing"),
        (
            _set(4, "ImageOrientationPatient", list(SAGITTAL)),
            r"2 candidate volumes, .* none of them: \(1\) 19 slices, orientation \(1, 0, 0, 0, 1, "
            r"0\): unequal .*slice 4 .*\(2\) 1 slice, orientation \(0, 1, .*\): it has one",
        ),
        (_set(4, "ImagePositionPatient", [-10, 20, 30]), r"slice 1 .* and slice 5 .*same position"),
        (_delete(6, "PixelData"), r"slice 7 .*no Pixel Data"),
        (_set(6, "PixelData", b"\0" * 10), r"Pixel Data of slice 7 .*cannot be decoded"),
        (_delete(2, "ImagePositionPatient"), r"slice 3 .*no ImagePositionPatient"),
        (
            _set(2, "PixelSpacing", [1.0, 0.6]),
            r"19 slices, pixels of \(1, 0\.5\) mm.*1 slice, pixels of \(1, 0\.6\) mm",
        ),
        (_set(2, "Modality", "CT"), "the Model takes MR; this Series is CT, MR"),
        (_set(2, "SOPClassUID", EnhancedMRImageStorage), r"1 slice, Enhanced MR Image Storage"),
        (_set(5, "PatientID", "P2"), r"PatientID of slice 6 .* is not that of slice 1 "),
        (_set(5, "StudyInstanceUID", "1.2"), r"StudyInstanceUID of slice 6 "),
        (_set(5, "RescaleSlope", 0), "RescaleSlope of slice 6 .* is 0"),
        (_set(5, "RescaleSlope", ["1", "2"]), "Pixel Data of slice 6 .* cannot be decoded"),
        (
            _set(0, "PixelSpacing", [1.0, 0.5, 2.0]),
            r"slice 1 .* has no PixelSpacing, or none .*belong",
        ),
        (
            _set(3, "ImageOrientationPatient", [1, 0, 0]),
            r"slice 4 .* has no ImageOrientationPatient",
        ),
        (_delete(0, "SOPClassUID"), "slice 1 .* is of no SOP Class"),
        (_tilt, r"sheared by 18\.\d° against their normal \(gantry tilt\)"),
        (_no_frame_of_reference, "no Frame of Reference UID"),
    ],
)
def test_a_series_that_makes_no_volume_is_refused_and_says_which_slice(
    change: Callable[[list[Dataset]], object], sentence: str
) -> None:
    instances = make_series()
    change(instances)
    with pytest.raises(SeriesRejected, match=sentence):
        _assembled(instances)


def test_a_spacing_outside_the_models_is_refused_with_the_numbers() -> None:
    with pytest.raises(SeriesRejected, match=r"\(2, 1, 0\.5\) mm; the Model takes 0\.4 to 1\.5 mm"):
        _assembled(make_series(), InputRules(max_spacing_mm=1.5, min_spacing_mm=0.4))


def test_headers_rounded_to_a_hundredth_are_no_unequal_spacing() -> None:
    instances = make_series(spacing_mm=(1.2307, 1.0, 1.0))
    for one in instances:
        one.ImagePositionPatient = [round(float(value), 2) for value in one.ImagePositionPatient]
    assert _assembled(instances).spacing_mm[0] == pytest.approx(1.2307, abs=1e-3)


def test_a_whole_head_is_refused_by_a_model_of_crops_with_the_numbers() -> None:
    with pytest.raises(SeriesRejected, match=r"\(40, 24, 8\) mm .*crops of at most 30 mm"):
        _assembled(make_series(), InputRules(max_extent_mm=30.0))


def _ct(instances: list[Dataset]) -> list[Dataset]:
    for one in instances:
        one.SOPClassUID, one.Modality = CTImageStorage, "CT"
        one.RescaleSlope, one.RescaleIntercept, one.RescaleType = 1, -1024, "HU"
    return instances


@pytest.mark.parametrize("keyword", ["RescaleSlope", "RescaleIntercept"])
def test_a_ct_or_pet_slice_that_does_not_state_its_rescale_is_refused(keyword: str) -> None:
    instances = _ct(make_series())
    assert _assembled(instances, InputRules()).array[4, 2, 1] == instances[4].pixel_array[
        2, 1
    ] - np.float32(1024)
    delattr(instances[4], keyword)
    with pytest.raises(SeriesRejected, match=rf"slice 5 .* has no {keyword}"):
        _assembled(instances, InputRules())
    for one in instances:
        one.SOPClassUID = PositronEmissionTomographyImageStorage
    with pytest.raises(SeriesRejected, match=rf"slice 5 .* has no {keyword}"):
        _assembled(instances, InputRules())


def test_mr_slices_of_which_only_some_state_a_slope_are_refused() -> None:
    instances = make_series()
    for one in instances[:7]:
        one.RescaleSlope, one.RescaleIntercept = 2.0, 0.0
    with pytest.raises(
        SeriesRejected, match=r"slice 1 .* states a RescaleSlope, slice 8 .* does not"
    ):
        _assembled(instances)


def test_an_empty_patient_id_and_none_are_the_same() -> None:
    instances = make_series()
    for one in instances:
        one.PatientID = ""
    del instances[3].PatientID
    assert _assembled(instances).array.shape[0] == 20


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID"])
def test_a_series_that_a_result_could_not_refer_to_is_refused_before_it_is_segmented(
    keyword: str,
) -> None:
    instances = make_series()
    for one in instances:
        delattr(one, keyword)
    with pytest.raises(SeriesRejected, match=f"has no {keyword}"):
        _assembled(instances)


def test_slices_as_far_apart_as_no_patient_is_long_are_refused() -> None:
    with pytest.raises(SeriesRejected, match="nobody is longer than"):
        _assembled(make_series(2, spacing_mm=(9e5, 1.0, 1.0)), InputRules())


@pytest.mark.parametrize(
    "data", [b"abc\0", b"\xfe\xff\x00\xe0\x03\0\0\0abc\0", b"\xfe\xff\x00\xe0"]
)
def test_compressed_bytes_that_are_no_fragments_are_refused(data: bytes) -> None:
    instances = make_series()
    for one in instances:
        one.file_meta.TransferSyntaxUID = JPEG2000Lossless
        one.PixelData = data
    with pytest.raises(SeriesRejected, match=r"Pixel Data of slice 1 .* cannot be decoded"):
        _assembled(instances)
