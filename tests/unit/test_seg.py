"""The Segmentation that leaves, judged by highdicom, SimpleITK, pydicom and dciodvfy."""

import hashlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

from node.core.anatomy import Segment
from node.core.errors import Fatal
from node.core.model import Profile
from node.core.names import SeriesInstanceUID
from node.core.uids import result_uids
from node.core.volume import LabelMap
from node.dicom.assemble import assemble
from node.dicom.inbox import read_files
from node.dicom.results import context
from node.dicom.series import SourceSeries
from tests.answers import CREATED_AT, encode, file_bytes, read_back, verify
from tests.judges import faults
from tests.models import (
    BRAIN,
    HIPPOCAMPUS,
    LEFT,
    RULES,
    SEGMENTS,
    STRUCTURE,
    UIDS,
    boxes,
    labels_on,
    make_model,
    source_of,
)
from tests.series_factory import AXIAL, CORONAL, SAGITTAL, make_series

OBLIQUE = (0.8, 0.6, 0.0, -0.36, 0.48, 0.8)
ORIENTATIONS = [AXIAL, SAGITTAL, CORONAL, OBLIQUE]

TYPE_2 = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
    "PositionReferenceIndicator",
)


def encoded(source: SourceSeries, label_map: LabelMap | None = None, **model: Any) -> Dataset:
    labels = label_map or boxes(source)
    return encode(labels, replace(make_model(), **model), source, UIDS, CREATED_AT)


def test_the_same_input_gives_the_same_bytes_in_whatever_order_it_came() -> None:
    instances = make_series()
    shuffled = [instances[i] for i in np.random.default_rng(1).permutation(len(instances))]
    first = file_bytes(encoded(source_of(instances)))
    time.sleep(1.1)  # a clock that was read would show: times have whole seconds
    assert file_bytes(encoded(source_of(shuffled))) == first


def test_the_bytes_are_those_that_peers_already_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "__version__", "0")  # a release is another device
    instances = make_series()
    for one in instances:
        one.TimezoneOffsetFromUTC = "+0000"
    digest = hashlib.sha256(file_bytes(encoded(source_of(instances)))).hexdigest()
    assert digest == "34df8f920052885b622bf28f7b33b474aad5549342aa9fb19b8d1fecf0007724"


def test_encoding_leaves_the_source_as_it_was() -> None:
    instances = make_series()
    before = deepcopy(instances)
    encoded(source_of(instances))
    assert instances == before


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("step", [1, -1], ids=["along the normal", "against it"])
def test_a_sphere_lies_where_it_was_drawn_in_mm(
    tmp_path: Path, orientation: tuple[float, ...], step: int
) -> None:
    source = source_of(make_series(24, 30, 40, (2.0, 1.0, 0.5), orientation)[::-1])
    grid = assemble(source, RULES)
    centre, radius_mm = (grid.affine @ [11.3, 14.6, 19.2, 1.0])[:3], 6.0
    indices = np.indices(grid.array.shape).reshape(3, -1)
    points = grid.affine[:3, :3] @ indices + grid.affine[:3, 3:]
    inside = np.linalg.norm(points - centre[:, None], axis=0) <= radius_mm
    array = inside.reshape(grid.array.shape).astype(np.uint8)
    affine = grid.affine.copy()
    affine[:3, 3] += (len(array) - 1) * affine[:3, 0] * (step < 0)
    affine[:3, 0] *= step
    label_map = LabelMap(array[::step], affine, grid.frame_of_reference_uid)
    dataset = encode(label_map, make_model(SEGMENTS[:1]), source, UIDS, CREATED_AT)
    (tmp_path / "seg.dcm").write_bytes(file_bytes(dataset))
    assert _centroid_mm(tmp_path / "seg.dcm") == pytest.approx(centre, abs=0.1)


def test_slices_whose_positions_are_rounded_carry_their_segmentation() -> None:
    series = make_series(24, 30, 40, (0.625, 1.0, 0.5))
    for one in series:
        one.ImagePositionPatient = [round(float(v), 1) for v in one.ImagePositionPatient]
    source = source_of(series)
    grid = assemble(source, RULES)
    assert grid.spacing_mm[0] == pytest.approx(0.625, abs=0.01)
    array = np.zeros(grid.array.shape, np.uint8)
    array[3:20, 5:12, 7:20] = 1
    label_map = LabelMap(array, grid.affine, grid.frame_of_reference_uid)
    model = make_model(SEGMENTS[:1])
    made = file_bytes(encode(label_map, model, source, UIDS, CREATED_AT))
    verify(made, label_map, model, source)


def _centroid_mm(path: Path) -> NDArray[np.float64]:
    """The centroid of a one-Segment Segmentation, LPS mm, as SimpleITK reads the file."""
    statistics = sitk.LabelShapeStatisticsImageFilter()
    statistics.Execute(sitk.ReadImage(str(path)) > 0)
    return np.asarray(statistics.GetCentroid(1))


def test_highdicom_reads_back_every_label() -> None:
    source = source_of(make_series(orientation=OBLIQUE))
    label_map = boxes(source)
    read = highdicom.seg.segread(BytesIO(file_bytes(encoded(source, label_map))))
    volume = read.get_volume(combine_segments=True).match_geometry(
        highdicom.Volume(label_map.array, label_map.affine, "PATIENT")
    )
    assert np.array_equal(volume.array, label_map.array)


def test_every_attribute_is_as_highdicom_would_have_written_it() -> None:
    source = source_of(make_series())
    label_map = boxes(source)
    ours = encoded(source, label_map)
    theirs = highdicom.seg.Segmentation(
        source_images=list(source.instances),
        pixel_array=label_map.array,
        segmentation_type="BINARY",
        segment_descriptions=list(ours.SegmentSequence),
        series_instance_uid=UIDS.series_instance_uid,
        series_number=1003,
        sop_instance_uid=UIDS.sop_instance_uid,
        instance_number=1,
        manufacturer="Segnode",
        manufacturer_model_name="Segnode",
        software_versions=ours.SoftwareVersions,
        device_serial_number="0123456789abcdef",
        series_description="Segmentation: Hippocampus",
        content_label="SEGMENTATION",
        content_description="Research use; not a medical device",
    )
    assert _by_place(read_back(ours)) == _by_place(read_back(theirs))
    assert _differences(read_back(ours), read_back(theirs)) == {
        "ContentCreatorName",  # Type 2, PS3.3 10.9: empty, and forgotten there
        "ContentDate",
        "ContentTime",
        "ContributingEquipmentSequence",  # highdicom, which did not write ours
        "DeviceUID",
        "DimensionIndexSequence",  # a random UID there
        "DimensionOrganizationSequence",
        "InstanceCreationDate",
        "InstanceCreationTime",
        "PerFrameFunctionalGroupsSequence",  # planes run against the normal there
        "PixelData",
        "SeriesDate",
        "SeriesTime",
    }


def _by_place(dataset: Dataset) -> dict[tuple[float, ...], tuple[str, bytes]]:
    """All functional groups but the place in the file, and the voxels, by segment and position."""
    found = {}
    for frame, mask in zip(_frames(dataset), dataset.pixel_array, strict=True):
        del frame.FrameContentSequence
        number = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        position = frame.PlanePositionSequence[0].ImagePositionPatient
        found[(number, *position)] = (frame.to_json(), mask.tobytes())
    return found


def _differences(one: Dataset, other: Dataset) -> set[str]:
    elements = {*one.keys(), *other.keys()}
    return {
        (one.get(tag) or other[tag]).keyword for tag in elements if one.get(tag) != other.get(tag)
    }


def test_segments_without_a_voxel_are_left_out_and_the_rest_are_numbered_from_one() -> None:
    source = source_of(make_series())
    array = np.zeros((20, 24, 16), np.uint16)
    array[4, 5, 6], array[9, 5, 6] = 2, 300
    segments = (*SEGMENTS, Segment(300, "Last", STRUCTURE, HIPPOCAMPUS, (1, 2, 3)))
    dataset = encoded(source, labels_on(source, array), segments=segments)
    found = [(item.SegmentNumber, item.SegmentLabel) for item in dataset.SegmentSequence]
    assert found == [(1, "Posterior"), (2, "Last")]
    assert dataset.NumberOfFrames == 2


def test_frames_go_by_segment_then_plane_and_empty_ones_are_omitted() -> None:
    source = source_of(make_series())
    label_map = boxes(source)
    dataset = encoded(source, label_map)
    order = [tuple(f.FrameContentSequence[0].DimensionIndexValues) for f in _frames(dataset)]
    planes = [int(np.any(plane == 1)) + int(np.any(plane == 2)) for plane in label_map.array]
    assert order == sorted(order)
    assert dataset.NumberOfFrames == sum(planes) == len(order)


def test_nothing_found_is_one_empty_frame_for_each_segment_and_passes_the_gate() -> None:
    source = source_of(make_series())
    label_map = labels_on(source, np.zeros((20, 24, 16), np.uint8))
    dataset = encoded(source, label_map)
    assert [item.SegmentLabel for item in dataset.SegmentSequence] == [s.label for s in SEGMENTS]
    assert dataset.NumberOfFrames == len(SEGMENTS)
    assert not any(dataset.PixelData)
    assert len(dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 20
    verify(file_bytes(dataset), label_map, make_model(), source)


def test_each_frame_names_the_instance_that_lies_at_its_position() -> None:
    source = source_of(make_series(orientation=SAGITTAL)[::-1])
    by_uid = {one.SOPInstanceUID: one for one in source.instances}
    dataset = read_back(encoded(source))
    for frame in _frames(dataset):
        (image,) = frame.DerivationImageSequence[0].SourceImageSequence
        instance = by_uid[image.ReferencedSOPInstanceUID]
        position = frame.PlanePositionSequence[0].ImagePositionPatient
        assert position == instance.ImagePositionPatient
        assert image.ReferencedSOPClassUID == instance.SOPClassUID
    (series,) = dataset.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == source.series_instance_uid
    references = {one.ReferencedSOPInstanceUID for one in series.ReferencedInstanceSequence}
    assert references == set(by_uid)


def _frames(dataset: Dataset) -> list[Dataset]:
    return list(dataset.PerFrameFunctionalGroupsSequence)


def test_a_segment_carries_its_codes_its_colour_and_the_model_that_drew_it() -> None:
    item = read_back(encoded(source_of(make_series()))).SegmentSequence[0]
    (kind,) = item.SegmentedPropertyTypeCodeSequence
    (algorithm,) = item.SegmentationAlgorithmIdentificationSequence
    colour = highdicom.color.CIELabColor.from_dicom_value(item.RecommendedDisplayCIELabValue)
    assert kind.CodeValue == HIPPOCAMPUS.value
    assert kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeValue == LEFT.value
    assert item.AnatomicRegionSequence[0].CodeValue == BRAIN.value
    assert item.SegmentedPropertyCategoryCodeSequence[0].CodeValue == STRUCTURE.value
    assert item.SegmentAlgorithmType == "AUTOMATIC"
    assert colour.to_rgb() == SEGMENTS[0].colour
    assert algorithm.AlgorithmName == "Hippocampus"
    assert algorithm.AlgorithmVersion == "1.0 0123456789ab"
    assert f"fingerprint={make_model().fingerprint}" in algorithm.AlgorithmParameters


def test_an_assumed_orientation_is_said_in_the_result() -> None:
    source = source_of(make_series())
    said = encoded(source, orientation_assumed=True)
    assert "orientation assumed" in said.ContentDescription
    assert len(said.ContentDescription) <= 64
    assert "assumed" not in encoded(source).ContentDescription


def test_another_model_is_another_device_and_other_tracking_uids() -> None:
    source = source_of(make_series())
    label_map = boxes(source)
    other_uids = result_uids("input", "other")
    one = encoded(source, label_map)
    other = encode(
        label_map, replace(make_model(), fingerprint="ff" * 32), source, other_uids, CREATED_AT
    )
    assert one.DeviceUID != other.DeviceUID
    assert one.SegmentSequence[0].TrackingUID != other.SegmentSequence[0].TrackingUID


@pytest.mark.filterwarnings("ignore:Invalid value")
def test_what_the_source_lacks_is_empty_and_what_is_odd_is_copied() -> None:
    instances = make_series()
    for one in instances:
        for keyword in TYPE_2:
            if keyword in one:
                delattr(one, keyword)
    instances[0].PatientSex = "female"  # not one of the values of PS3.3 C.7.1.1
    dataset = read_back(encoded(source_of(instances)))
    assert dataset.PatientSex == "female"
    for keyword in set(TYPE_2) - {"PatientSex"}:
        assert keyword in dataset
        assert not dataset[keyword].value, keyword


@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        (None, "Yamada^Taro"),
        ("ISO_IR 100", "Buc^Jérôme"),
        ("ISO_IR 144", "Люкceмбypг"),
        ("ISO_IR 192", "Wang^XiaoDong=王^小东"),
        ("GB18030", "Wang^XiaoDong=王^小东"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
    ],
)
@pytest.mark.parametrize("title", ["Hippocampus", "Hüftgelenk"])
def test_a_name_survives_in_the_character_set_of_its_source(
    character_set: str | list[str] | None, name: str, title: str
) -> None:
    instances = make_series()
    for one in instances:
        one.SpecificCharacterSet, one.PatientName = character_set, name
    source = source_of([dcmread(BytesIO(file_bytes(one))) for one in instances])  # as from a disk
    label_map = boxes(source)
    file = file_bytes(encoded(source, label_map, title=title))
    dataset = dcmread(BytesIO(file))
    assert str(dataset.PatientName) == name
    assert dataset.SeriesDescription == f"Segmentation: {title}"
    if title.isascii():
        assert (dataset.get("SpecificCharacterSet") or None) == character_set
    verify(file, label_map, replace(make_model(), title=title), source)


@pytest.mark.filterwarnings("ignore:Failed to decode")
def test_a_name_that_its_character_set_does_not_know_does_not_stop_the_result() -> None:
    name, mangled = "Müller^Änne".encode(), "Müller^Änne".encode("latin-1") + b"  "
    files = [file_bytes(one).replace(name, mangled) for one in make_series()]
    source = source_of([dcmread(BytesIO(file)) for file in files])
    label_map = boxes(source)
    file = file_bytes(encoded(source, label_map))
    assert dcmread(BytesIO(file)).PatientName == source.instances[0].PatientName
    verify(file, label_map, make_model(), source)


@pytest.mark.parametrize(
    ("number", "expected"),
    [(None, 1000), (3, 1003), (0, 1000), (-4, 1000), (2**31 - 1, 1000), ("absent", 1000)],
)
def test_the_series_number_follows_the_sources(number: Any, expected: int) -> None:
    instances = make_series()
    for one in instances:
        if number == "absent":
            del one.SeriesNumber
        else:
            one.SeriesNumber = number
    assert encoded(source_of(instances)).SeriesNumber == expected


@pytest.fixture
def new_york(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("new_york")
@pytest.mark.parametrize(
    ("offset", "expected"),
    [
        (None, ("20231114", "171320")),  # the machine's own time, and no offset
        ("+0530", ("20231115", "034320")),
        ("late", ("20231114", "171320")),
    ],
)
def test_times_can_be_compared_with_the_study_time(
    offset: str | None, expected: tuple[str, str]
) -> None:
    instances = make_series()
    for one in instances:
        if offset:
            one.TimezoneOffsetFromUTC = offset
    dataset = encoded(source_of(instances))
    assert (dataset.ContentDate, dataset.ContentTime) == expected
    assert (dataset.SeriesDate, dataset.SeriesTime) == expected
    assert (dataset.InstanceCreationDate, dataset.InstanceCreationTime) == expected
    assert dataset.get("TimezoneOffsetFromUTC") == offset


def test_long_and_odd_words_of_a_model_still_make_valid_elements() -> None:
    source = source_of(make_series())
    label_map = boxes(source)
    label = "left\\right\n" + "a very long label " * 5
    segments = (replace(SEGMENTS[0], label=label), *SEGMENTS[1:])
    model = replace(make_model(segments), title="T" * 200, version="v" * 200)
    file = file_bytes(encode(label_map, model, source, UIDS, CREATED_AT))
    item = dcmread(BytesIO(file)).SegmentSequence[0]
    assert item.SegmentLabel == "left/right a very long label a very long label a very long label"
    assert len(dcmread(BytesIO(file)).SeriesDescription) == 64
    verify(file, label_map, model, source)


@pytest.mark.parametrize(
    ("profile", "changes"),
    [
        (Profile.FAST, "no mirroring"),
        (Profile.FASTEST, "no mirroring; tile step 0.8 of a patch; tiles of air skipped"),
    ],
)
def test_a_result_of_another_profile_says_so_to_the_radiologist_and_to_programs(
    profile: Profile, changes: str
) -> None:
    source = source_of(make_series())
    model = replace(make_model(), profile=profile, title="T" * 200)
    file = file_bytes(encode(boxes(source), model, source, UIDS, CREATED_AT))
    dataset = dcmread(BytesIO(file))
    assert dataset.SeriesDescription.startswith("Segmentation: TTT")
    assert dataset.SeriesDescription.endswith(f"TTT (profile {profile})")
    assert len(dataset.SeriesDescription) == 64
    for item in dataset.SegmentSequence:
        (algorithm,) = item.SegmentationAlgorithmIdentificationSequence
        assert algorithm.AlgorithmParameters.endswith(f",profile={profile}: {changes}")
        for name in (item.SegmentAlgorithmName, algorithm.AlgorithmName):
            assert name.endswith(f"TTT (profile {profile})")
            assert len(name) == 64
    verify(file, boxes(source), model, source)


def test_a_result_of_the_exact_profile_does_not_mention_profiles() -> None:
    assert "rofile" not in str(encoded(source_of(make_series())))


def test_a_result_of_a_cascade_names_both_configurations() -> None:
    cascade = replace(make_model(), configuration="3d_cascade_fullres")
    first = replace(make_model(), configuration="3d_lowres")
    dataset = encoded(source_of(make_series()), **{**vars(cascade), "previous_stage": first})
    (algorithm,) = dataset.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence
    assert "configuration=3d_cascade_fullres" in algorithm.AlgorithmParameters
    assert algorithm.AlgorithmParameters.endswith(",previous stage=3d_lowres")


def _without(keyword: str) -> Callable[[list[Dataset]], Any]:
    return lambda instances: delattr(instances[4], keyword)


def _set(keyword: str, value: Any) -> Callable[[list[Dataset]], Any]:
    return lambda instances: setattr(instances[4], keyword, value)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (_without("ImagePositionPatient"), "has no ImagePositionPatient"),
        (_without("SOPInstanceUID"), "without UID has no SOPInstanceUID"),
        (_without("FrameOfReferenceUID"), "has no FrameOfReferenceUID"),
        (_set("Rows", 25), "has 25 × 16 pixels"),
        (_set("FrameOfReferenceUID", "1.2.3"), "not in the label map's Frame of Reference"),
        (_set("ImagePositionPatient", [-10, 20, 30]), "lie on one slice"),
        (_set("ImagePositionPatient", [-10, 20, 300]), "do not lie on the 20 slices"),
        (lambda instances: instances.pop(), "the 19 planes of the Series do not lie on the 20"),
    ],
)
def test_a_header_that_cannot_carry_a_segmentation_is_refused_by_name(
    spoil: Callable[[list[Dataset]], Any], sentence: str
) -> None:
    label_map = boxes(source_of(make_series()))
    instances = make_series()
    spoil(instances)
    with pytest.raises(Fatal, match=sentence):
        encode(label_map, make_model(), source_of(instances), UIDS, CREATED_AT)


def test_a_label_without_a_segment_is_refused() -> None:
    source = source_of(make_series())
    array = np.zeros((20, 24, 16), np.uint8)
    array[0, 0, 0] = 4
    with pytest.raises(Fatal, match="label 4 is in the label map, but hippocampus has no such"):
        encoded(source, labels_on(source, array))


@pytest.mark.parametrize("folder", ["mr_hippocrop_1", "mr_hippocrop_2", "mr_hippocrop_3"])
@pytest.mark.parametrize(
    ("found", "profile"),
    [(True, Profile.EXACT), (False, Profile.EXACT), (True, Profile.FASTEST)],
    ids=["labels", "nothing found", "fastest"],
)
def test_dciodvfy_finds_no_fault_in_the_segmentation_of_a_real_series(
    shared_data: Path, tmp_path: Path, folder: str, found: bool, profile: Profile
) -> None:
    paths = sorted((shared_data / "dicom" / folder).glob("*.dcm"))
    source = read_files(SeriesInstanceUID(""), paths)
    label_map = boxes(source)
    if not found:
        label_map = replace(label_map, array=label_map.array * 0)
    file = tmp_path / "seg.dcm"
    model = replace(make_model(), profile=profile, title="Hippocampus " * 10)
    file.write_bytes(file_bytes(encode(label_map, model, source, UIDS, CREATED_AT)))
    verify(file.read_bytes(), label_map, model, source)
    assert faults(file) - faults(paths[0]) == set()


def test_encoding_stays_small_in_the_process_that_receives() -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc to read the peak of memory")
    code = """
import tests.unit.test_seg as t
source = t.source_of(t.make_series())
base = peak()
for _ in range(3):
    t.file_bytes(t.encoded(source))
print(peak() - base)
"""
    helper = (
        "def peak(): return int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", helper + code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert int(done.stdout) < 20_000  # KiB; highdicom's tables of the Standard are 115,000
