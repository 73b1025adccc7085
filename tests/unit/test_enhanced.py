"""Multi-frame sources: the volume, the one of several, and the result on their frames."""

from copy import deepcopy
from io import BytesIO
from pathlib import Path

import highdicom
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRBigEndian,
    LegacyConvertedEnhancedCTImageStorage,
    PositronEmissionTomographyImageStorage,
    RLELossless,
)

from node.core.errors import Fatal, SeriesRejected
from node.core.model import InputRules
from node.core.names import SOPInstanceUID
from node.core.verdict import Verdict
from node.core.volume import LabelMap
from node.dicom.assemble import Stack, stack
from node.dicom.series import SourceSeries
from tests.answers import CREATED_AT, encode, file_bytes, verify
from tests.assembly_table import real_series, with_uids
from tests.judges import faults
from tests.models import SEGMENTS, UIDS, boxes, make_model, source_of
from tests.series_factory import make_enhanced, make_series

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
    (real,) = real_series(shared_data / "dicom" / "dicom2nifti" / name)
    source = source_of(with_uids(real.instances))
    made = stack(source, RULES)
    labels, file = _encoded(made, source)
    verify(file, labels, make_model(), source, made.planes)
    (tmp_path / "seg.dcm").write_bytes(file)
    assert faults(tmp_path / "seg.dcm") - faults(real.paths[0]) == set()


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


def _legacy_converted(classic: list[Dataset]) -> Dataset:
    """As a converter writes a CT (PS3.3 A.70): what varies per frame goes into functional groups,
    what has no group of its own into the unassigned converted attributes (C.7.6.16.2.25)."""
    converted = make_enhanced(classic)
    converted.SOPClassUID = LegacyConvertedEnhancedCTImageStorage
    converted.file_meta.MediaStorageSOPClassUID = LegacyConvertedEnhancedCTImageStorage
    for keyword in ("RescaleSlope", "RescaleIntercept", "KVP", "XRayTubeCurrent", "EchoTime"):
        if keyword in converted:
            del converted[keyword]
    for groups, one in zip(converted.PerFrameFunctionalGroupsSequence, classic[::-1], strict=True):
        unassigned, kind = Dataset(), Dataset()
        for keyword in ("KVP", "XRayTubeCurrent", "AcquisitionTime", "SliceLocation"):
            if keyword in one:
                unassigned[keyword] = one[keyword]
        kind.FrameType = one.ImageType
        groups.UnassignedPerFrameConvertedAttributesSequence = [unassigned]
        groups.CTImageFrameTypeSequence = [kind]
    return converted


def _ct(name: str = "ct", **values: object) -> list[Dataset]:
    instances = make_series(name=name)
    for index, one in enumerate(instances):
        one.SOPClassUID, one.Modality = CTImageStorage, "CT"
        one.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        one.RescaleSlope, one.RescaleIntercept = 1.0 + index / 10, -1024.0
        one.KVP, one.XRayTubeCurrent = 120, 80 + 3 * index
        one.AcquisitionTime, one.SliceLocation = f"1201{index:02d}.5", float(index)
        for keyword, value in values.items():
            setattr(one, keyword, value)
    return instances


def test_a_legacy_converted_ct_makes_the_volume_of_its_slices_and_carries_the_result() -> None:
    classic = _ct()
    expected = stack(source_of(classic), RULES).volume
    source = source_of([_legacy_converted(classic)])
    made = stack(source, RULES)
    assert np.array_equal(made.volume.array, expected.array)
    assert np.array_equal(made.volume.affine, expected.affine)
    labels, file = _encoded(made, source)
    verify(file, labels, make_model(), source, made.planes)


def test_energies_in_a_legacy_converted_ct_are_told_apart_and_selected() -> None:
    both = [*_ct(KVP=80, XRayTubeCurrent=200), *_ct("other", KVP=140, XRayTubeCurrent=200)]
    source = source_of([_legacy_converted(both)])
    with pytest.raises(SeriesRejected, match=r"2 candidate volumes .*KVP 140.*KVP 80"):
        stack(source, RULES)
    made = stack(source, InputRules(select={"KVP": 140}))
    assert {plane.frame for plane in made.planes} == set(range(1, 21))


def test_a_pet_is_rescaled_slice_by_slice_whatever_its_image_index() -> None:
    instances = _ct()
    for index, one in enumerate(instances):
        one.SOPClassUID, one.Modality, one.Units = (
            PositronEmissionTomographyImageStorage,
            "PT",
            "BQML",
        )
        one.RescaleSlope, one.RescaleIntercept = 0.37 + 0.011 * index, 0
        one.ImageIndex, one.InstanceNumber = 20 - index, 20 - index
        one.FrameReferenceTime, one.ActualFrameDuration = 500.0 + 90 * (index // 7), 90000
        one.DecayFactor = 1.0 + index / 100
    source = source_of(instances[::-1])
    made = stack(source, RULES)
    for index, one in enumerate(instances):
        stored = one.pixel_array.astype(float) * float(one.RescaleSlope)
        assert np.allclose(made.volume.array[index], stored, rtol=1e-6)
        assert np.allclose(made.volume.affine[:3] @ [index, 0, 0, 1], one.ImagePositionPatient)
    labels, file = _encoded(made, source)
    verify(file, labels, make_model(), source, made.planes)
    instances[3].Units = "CNTS"
    with pytest.raises(SeriesRejected, match="Units of slice"):
        stack(source, RULES)


def test_gates_of_a_pet_are_candidates_of_their_own() -> None:
    gates = []
    for gate in (1, 2, 3):
        one = _ct(f"gate {gate}", TriggerTime=300.0 * gate, Units="BQML")
        for each in one:
            each.SOPClassUID, each.FrameOfReferenceUID = (
                PositronEmissionTomographyImageStorage,
                "1.2.9",
            )
            each.SeriesInstanceUID, each.StudyInstanceUID = "1.2.7", "1.2.8"
            each.XRayTubeCurrent, each.AcquisitionTime = 80, "120100"
        gates += one
    with pytest.raises(SeriesRejected, match=r"3 candidate volumes .*TriggerTime 300"):
        stack(source_of(gates), RULES)
    assert len(stack(source_of(gates), InputRules(select={"TriggerTime": 600})).planes) == 20


def test_an_empty_group_of_a_frame_is_none_at_all() -> None:
    image = make_enhanced(make_series())
    for groups in image.PerFrameFunctionalGroupsSequence:
        groups.PlaneOrientationSequence, groups.PixelMeasuresSequence = [], [Dataset()]
    source = source_of([image])
    made = stack(source, RULES)
    labels, file = _encoded(made, source)
    verify(file, labels, make_model(), source, made.planes)
