"""The SEG: held against highdicom's own, dciodvfy, and a sphere whose place is known in mm."""

import subprocess
import sys
from io import BytesIO
from pathlib import Path

import highdicom
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

from node.core.anatomy import Code, Segment
from node.core.errors import Fatal
from node.core.model import InputRules, Model
from node.core.names import SeriesInstanceUID
from node.core.uids import result_uids
from node.core.volume import LabelMap
from node.dicom.assemble import assemble
from node.dicom.inbox import read_files
from node.dicom.seg import encode, file_bytes
from node.dicom.series import SourceSeries
from node.dicom.verify import segment_volumes_ml, verify
from tests.series_factory import AXIAL, CORONAL, SAGITTAL, make_series

STRUCTURE = Code("91723000", "SCT", "Anatomical Structure")
LIVER, SPLEEN = Code("10200004", "SCT", "Liver"), Code("78961009", "SCT", "Spleen")
SEGMENTS = (
    Segment(1, "Liver", STRUCTURE, LIVER, (221, 130, 101)),
    Segment(2, "Spleen", STRUCTURE, SPLEEN, (157, 108, 162)),
    Segment(5, "Never there", STRUCTURE, LIVER, (0, 0, 0)),
)
UIDS = result_uids("input", "model")
CREATED_AT = 1_700_000_000.0
OBLIQUE = (0.8, 0.6, 0.0, 0.0, 0.0, -1.0)


def a_model(**changes: object) -> Model:
    values = {
        "name": "abdomen",
        "folder": Path("nowhere"),
        "title": "Abdomen",
        "version": "1.2",
        "fingerprint": "ab" * 32,
        "configuration": "3d_fullres",
        "folds": ("0",),
        "checkpoint_name": "checkpoint_final.pth",
        "channels": ("CT",),
        "orientation": "RAS",
        "orientation_assumed": False,
        "accepts": InputRules(),
        "segments": SEGMENTS,
    }
    return Model(**(values | changes))  # type: ignore[arg-type]  # the values of a fixture


def a_source(**arguments: object) -> SourceSeries:
    instances = make_series(**arguments)  # type: ignore[arg-type]
    return SourceSeries(SeriesInstanceUID(str(instances[0].SeriesInstanceUID)), tuple(instances))


def labels_on(source: SourceSeries, seed: int = 0, dtype: type = np.uint8) -> LabelMap:
    """Both labels here and there, some slices empty."""
    volume = assemble(source, InputRules())
    random = np.random.default_rng(seed)
    labels = random.choice(np.array([0, 0, 0, 1, 2], dtype), volume.array.shape)
    labels[::3] = 0
    return LabelMap(labels, volume.affine, volume.frame_of_reference_uid)


def encoded(source: SourceSeries, label_map: LabelMap, model: Model | None = None) -> Dataset:
    return encode(label_map, model or a_model(), source, UIDS, CREATED_AT)


@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL, CORONAL, OBLIQUE])
@pytest.mark.parametrize("shape", [(20, 24, 16), (7, 5, 3), (2, 9, 11)])
def test_every_frame_is_the_one_highdicom_would_write(
    orientation: tuple[float, ...], shape: tuple[int, int, int]
) -> None:
    slices, rows, columns = shape
    source = a_source(slices=slices, rows=rows, columns=columns, orientation=orientation)
    label_map = labels_on(source)
    ours = _frames(dcmread(BytesIO(file_bytes(encoded(source, label_map)))))
    theirs = _frames(_highdicoms(source, label_map))
    assert ours == theirs
    assert ours


def _frames(segmentation: Dataset) -> dict[tuple[object, ...], bytes]:
    """Pixels by segment, position and source image; pixels and order are pydicom's."""
    found = {}
    for pixels, groups in zip(
        segmentation.pixel_array, segmentation.PerFrameFunctionalGroupsSequence, strict=True
    ):
        key = (
            int(groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber),
            *(float(mm) for mm in groups.PlanePositionSequence[0].ImagePositionPatient),
            groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID,
        )
        found[key] = pixels.tobytes()
    return found


def _highdicoms(source: SourceSeries, label_map: LabelMap) -> Dataset:
    """The same label map by highdicom.seg.Segmentation."""
    descriptions = [
        highdicom.seg.SegmentDescription(
            segment_number=segment.number,
            segment_label=segment.label,
            segmented_property_category=highdicom.sr.CodedConcept(*_triple(segment.category)),
            segmented_property_type=highdicom.sr.CodedConcept(*_triple(segment.type)),
            algorithm_type="MANUAL",
        )
        for segment in SEGMENTS[:2]
    ]
    one_per_segment = np.stack([label_map.array == 1, label_map.array == 2], axis=-1)
    segmentation: Dataset = highdicom.seg.Segmentation(
        source_images=list(source.instances),
        pixel_array=one_per_segment.astype(np.uint8),
        segmentation_type="BINARY",
        segment_descriptions=descriptions,
        series_instance_uid=UIDS.series_instance_uid,
        series_number=1,
        sop_instance_uid=UIDS.sop_instance_uid,
        instance_number=1,
        manufacturer="x",
        manufacturer_model_name="x",
        software_versions="x",
        device_serial_number="x",
    )
    return segmentation


def _triple(code: Code) -> tuple[str, str, str]:
    return code.value, code.scheme, code.meaning


def test_highdicom_reads_it_as_the_same_volume() -> None:
    source = a_source(orientation=SAGITTAL)
    label_map = labels_on(source)
    read = highdicom.seg.segread(BytesIO(file_bytes(encoded(source, label_map))))
    volume = read.get_volume(combine_segments=True)
    back = volume.match_geometry(
        highdicom.Volume(
            np.zeros(label_map.array.shape, np.uint8),
            affine=label_map.affine,
            coordinate_system="PATIENT",
        )
    )
    assert np.array_equal(back.array, label_map.array)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    shape=st.tuples(st.integers(2, 9), st.integers(1, 17), st.integers(1, 17)),
    orientation=st.sampled_from([AXIAL, SAGITTAL, CORONAL, OBLIQUE]),
    wide=st.booleans(),
)
def test_any_label_map_survives_encoding_and_the_gate(
    seed: int, shape: tuple[int, int, int], orientation: tuple[float, ...], wide: bool
) -> None:
    source = a_source(slices=shape[0], rows=shape[1], columns=shape[2], orientation=orientation)
    label_map = labels_on(source, seed, np.uint16 if wide else np.uint8)
    verify(file_bytes(encoded(source, label_map)), label_map, a_model(), source)


def test_a_sphere_lies_where_it_was_drawn_in_mm() -> None:
    source = a_source(
        slices=30, rows=40, columns=50, spacing_mm=(2.0, 1.0, 0.8), orientation=OBLIQUE
    )
    volume = assemble(source, InputRules())
    centre = (volume.affine @ [14, 20, 25, 1.0])[:3]
    grid = np.stack([*np.indices(volume.array.shape), np.ones(volume.array.shape)])
    points = np.einsum("ij,jkrc->ikrc", volume.affine, grid)[:3]
    inside = np.linalg.norm(points - centre[:, None, None, None], axis=0) < 8.0
    label_map = LabelMap(inside.astype(np.uint8), volume.affine, volume.frame_of_reference_uid)
    segmentation = dcmread(BytesIO(file_bytes(encoded(source, label_map))))
    assert _centroid_mm(segmentation) == pytest.approx(centre, abs=0.15)
    assert segment_volumes_ml(segmentation)["Liver"] == pytest.approx(
        4 / 3 * np.pi * 8.0**3 / 1000, rel=0.02
    )


def _centroid_mm(segmentation: Dataset) -> NDArray[np.float64]:
    """By pydicom's pixels and PS3.3 C.7.6.2.1.1 alone."""
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    cosines = np.asarray(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    row_mm, column_mm = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    points = []
    for frame, groups in zip(
        segmentation.pixel_array, segmentation.PerFrameFunctionalGroupsSequence, strict=True
    ):
        position = np.asarray(groups.PlanePositionSequence[0].ImagePositionPatient, float)
        for row, column in np.argwhere(frame):
            points.append(position + cosines[:3] * column_mm * column + cosines[3:] * row_mm * row)
    mean: NDArray[np.float64] = np.mean(points, axis=0)
    return mean


def test_the_same_work_gives_the_same_bytes_whatever_the_order_of_the_slices() -> None:
    source = a_source()
    label_map = labels_on(source)
    turned = SourceSeries(source.series_instance_uid, source.instances[::-1])
    one = file_bytes(encoded(source, label_map))
    assert file_bytes(encoded(source, label_map)) == one
    assert file_bytes(encoded(turned, label_map)) == one


def test_identity_names_and_algorithm_are_those_of_source_and_model() -> None:
    source = a_source()
    segmentation = encoded(source, labels_on(source))
    first = source.instances[0]
    assert segmentation.SOPInstanceUID == UIDS.sop_instance_uid
    assert segmentation.SeriesInstanceUID == UIDS.series_instance_uid
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "AccessionNumber"):
        assert segmentation[keyword].value == first[keyword].value
    assert str(dcmread(BytesIO(file_bytes(segmentation))).PatientName) == "Müller^Änne"
    assert [s.SegmentLabel for s in segmentation.SegmentSequence] == ["Liver", "Spleen"]
    algorithm = segmentation.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
    assert algorithm.AlgorithmName == "Abdomen"
    assert algorithm.AlgorithmVersion.startswith("1.2 abab")
    assert segmentation.ContentDescription == "Research use; not a medical device"


def test_an_orientation_that_was_assumed_is_said_in_the_result() -> None:
    source = a_source()
    model = a_model(orientation_assumed=True)
    segmentation = encoded(source, labels_on(source), model)
    assert "orientation assumed" in segmentation.ContentDescription


def test_nothing_found_is_a_result_too() -> None:
    source = a_source()
    label_map = labels_on(source)
    nothing = LabelMap(
        np.zeros_like(label_map.array), label_map.affine, label_map.frame_of_reference_uid
    )
    file = file_bytes(encoded(source, nothing))
    verify(file, nothing, a_model(), source)
    assert set(segment_volumes_ml(dcmread(BytesIO(file))).values()) == {0.0}


def test_a_label_without_a_segment_is_refused() -> None:
    source = a_source()
    label_map = labels_on(source)
    label_map.array[4, 3, 2] = 3
    with pytest.raises(Fatal, match="label map, but abdomen has no such Segment"):
        encoded(source, label_map)


def test_a_source_without_what_the_standard_wants_gives_empty_attributes() -> None:
    source = a_source()
    for one in source.instances:
        for keyword in (
            "PatientBirthDate",
            "PatientSex",
            "StudyDate",
            "StudyTime",
            "StudyID",
            "AccessionNumber",
            "ReferringPhysicianName",
            "SeriesNumber",
        ):
            delattr(one, keyword)
    segmentation = encoded(source, labels_on(source))
    assert segmentation.PatientBirthDate in (None, "")
    assert segmentation.SeriesNumber == 1000


@pytest.mark.parametrize("name", ["mr_hippocrop_1", "mr_hippocrop_2", "mr_hippocrop_3"])
def test_dciodvfy_finds_no_error_that_the_source_has_not(
    name: str, shared_data: Path, tmp_path: Path
) -> None:
    paths = sorted((shared_data / "dicom" / name).iterdir())
    source = read_files(SeriesInstanceUID("1.2"), paths)
    path = tmp_path / "seg.dcm"
    path.write_bytes(file_bytes(encoded(source, labels_on(source))))
    assert _errors(path) <= _errors(paths[0])


def _errors(path: Path) -> set[str]:
    program = Path(sys.executable).with_name("dciodvfy")
    done = subprocess.run([program, path], capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).splitlines()
    assert lines, "dciodvfy said nothing"
    return {line for line in lines if line.startswith("Error")}
