"""The Structure Set that leaves, judged by pydicom, scikit-image, plastimatch and dciodvfy."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from skimage.draw import polygon2mask

from node.core.errors import Fatal
from node.core.model import InputRules, Profile
from node.core.names import SOPInstanceUID
from node.core.result import ObjectRef, ResultKind
from node.core.verdict import Verdict
from node.core.volume import LabelMap
from node.dicom.assemble import assemble
from node.dicom.results.answer import Answer, ResultObject
from node.dicom.results.structure_set.encode import encode_structure_set
from node.dicom.results.structure_set.outlines import outlines
from node.dicom.results.structure_set.verify import dice, verify_structure_set
from node.dicom.series import SourceSeries
from tests.answers import answer_of, file_bytes
from tests.judges import dciodvfy
from tests.models import HIPPOCAMPUS, LEFT, SEGMENTS, STRUCTURE, blobs, make_model, source_of
from tests.real import REAL, real_source
from tests.series_factory import AXIAL, CORONAL, SAGITTAL, make_enhanced, make_series, write_series

OBLIQUE = (0.8, 0.6, 0.0, -0.36, 0.48, 0.8)
PRONE = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
MODIFIER = "SegmentedPropertyTypeModifierCodeSequence"
ORIENTATIONS = [AXIAL, SAGITTAL, CORONAL, OBLIQUE, PRONE]


def small(orientation: tuple[float, ...] = AXIAL) -> SourceSeries:
    return source_of(make_series(12, 30, 40, (2.0, 1.0, 0.5), orientation))


def answered(array: NDArray[Any] | None = None, source: SourceSeries | None = None) -> Answer:
    labels = blobs((12, 30, 40)) if array is None else array
    return answer_of(source or small(), labels)


def read(made: ResultObject) -> Dataset:
    return dcmread(BytesIO(made.content))


def contours(dataset: Dataset) -> Iterator[tuple[int, Dataset]]:
    """ROI Number and contour."""
    for roi in dataset.ROIContourSequence:
        for contour in roi.get("ContourSequence") or []:
            yield int(roi.ReferencedROINumber), contour


def filled(dataset: Dataset, label_map: LabelMap) -> NDArray[np.uint8]:
    """ROI Numbers in the label map's grid, by SimpleITK's geometry and scikit-image's polygons."""
    grid = image_of(label_map)
    found = np.zeros(label_map.array.shape, np.uint8)
    for number, contour in contours(dataset):
        points = np.reshape(contour.ContourData, (-1, 3)).astype(float)
        places = np.array([grid.TransformPhysicalPointToContinuousIndex(p) for p in points])
        index = round(float(places[0, 2]))
        assert np.abs(places[:, 2] - index).max() < 0.01
        found[index][polygon2mask(found.shape[1:], places[:, 1::-1])] ^= number
    return found


def image_of(label_map: LabelMap) -> sitk.Image:
    spacing = np.linalg.norm(label_map.affine[:3, :3], axis=0)
    image = sitk.GetImageFromArray(label_map.array)
    image.SetOrigin(label_map.affine[:3, 3].tolist())
    image.SetSpacing(spacing[::-1].tolist())
    image.SetDirection((label_map.affine[:3, :3] / spacing)[:, ::-1].ravel().tolist())
    return image


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_filled_contours_are_the_label_map_voxel_for_voxel(orientation: tuple[float, ...]) -> None:
    answer = answered(source=small(orientation))
    made = encode_structure_set(answer)
    assert np.array_equal(filled(read(made), answer.label_map), answer.label_map.array)
    verify_structure_set(made, answer)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_centroid_of_a_sphere_is_where_it_was_drawn_in_mm(
    orientation: tuple[float, ...],
) -> None:
    source = source_of(make_series(24, 30, 40, (2.0, 1.0, 0.5), orientation))
    answer = answer_of(source, np.zeros((24, 30, 40), np.uint8))
    affine = answer.label_map.affine
    centre = (affine @ [11.3, 14.6, 19.2, 1.0])[:3]
    points = affine[:3, :3] @ np.indices((24, 30, 40)).reshape(3, -1) + affine[:3, 3:]
    answer.label_map.array[...] = (
        np.linalg.norm(points - centre[:, None], axis=0).reshape(24, 30, 40) <= 6.0
    )
    dataset = read(encode_structure_set(answer))
    normal = np.cross(orientation[:3], orientation[3:])
    moments = [_area_and_centroid(contour, normal) for _, contour in contours(dataset)]
    areas = np.array([area for area, _ in moments])
    found = sum(area * place for area, place in moments) / areas.sum()
    assert found == pytest.approx(centre, abs=0.1)
    voxels = np.count_nonzero(answer.label_map.array)
    assert areas.sum() * 2.0 == pytest.approx(voxels * 1.0, rel=1e-4)  # a voxel is 1 mm³


def _area_and_centroid(
    contour: Dataset, normal: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64]]:
    """Of a plane polygon in space, mm² and LPS mm, by its triangles from the first corner."""
    points = np.reshape(contour.ContourData, (-1, 3)).astype(float)
    a, b = points[1:-1] - points[0], points[2:] - points[0]
    areas = np.cross(a, b) @ normal / 2
    centres = points[0] + (a + b) / 3
    return float(areas.sum()), areas @ centres / areas.sum()


def test_the_same_input_gives_the_same_bytes() -> None:
    first = encode_structure_set(answered())
    time.sleep(1.1)  # a clock that was read would show: times have whole seconds
    shuffled = SourceSeries(small().series_instance_uid, small().instances[::-1])
    assert encode_structure_set(answered(source=shuffled)).content == first.content


def test_a_hole_is_joined_to_its_outline_and_an_island_in_it_is_a_contour_of_its_own() -> None:
    plane = np.zeros((9, 9), np.uint8)
    plane[1:8, 1:8] = 1
    plane[2:7, 2:7] = 0
    plane[4, 4] = 1
    ring, island = outlines(plane, 1000)[1]
    assert len(island) == 4
    assert ring[:, 0].min() == ring[:, 1].min() == 0.5
    assert [tuple(point) for point in ring].count((1.5, 1.5)) == 2, "in by it and out again"
    found = polygon2mask((9, 9), ring) ^ polygon2mask((9, 9), island)
    assert np.array_equal(found, plane)


@pytest.mark.parametrize("place", [(0, 0, 0), (11, 29, 39), (5, 13, 17)])
def test_one_voxel_is_a_square_of_its_size(place: tuple[int, int, int]) -> None:
    array = np.zeros((12, 30, 40), np.uint8)
    array[place] = 1
    answer = answered(array)
    made = encode_structure_set(answer)
    ((_, contour),) = contours(read(made))
    points = np.reshape(contour.ContourData, (4, 3)).astype(float)
    assert np.ptp(points, axis=0) == pytest.approx((0.5, 1.0, 0.0))
    centre = (answer.label_map.affine @ [*place, 1.0])[:3]
    assert points.mean(axis=0) == pytest.approx(centre)
    verify_structure_set(made, answer)


def test_a_label_that_fills_all_slices_touches_all_borders() -> None:
    answer = answered(np.full((12, 30, 40), 5, np.uint8))
    made = encode_structure_set(answer)
    assert [int(contour.NumberOfContourPoints) for _, contour in contours(read(made))] == [4] * 12
    verify_structure_set(made, answer)


def test_a_region_of_too_many_points_is_cut_into_contours_that_every_syntax_holds() -> None:
    rows, columns = 140, 300
    plane = np.ones((rows, columns), np.uint8)
    plane[1:-1:2, 1:-1] = np.arange(columns - 2) % 2  # combs: 20,000 corners in one region
    array = np.stack([plane, plane])
    source = source_of(make_series(2, rows, columns, (2.0, 0.7, 0.7)))
    answer = answer_of(source, array)
    made = encode_structure_set(answer)
    sizes = [len(bytes(c.get_item("ContourData").value)) for _, c in contours(read(made))]
    assert len(sizes) > 2
    assert max(sizes) <= 65534
    assert np.array_equal(filled(read(made), answer.label_map), array)
    verify_structure_set(made, answer)


@pytest.mark.parametrize("most", [4, 5, 9, 50])
def test_cut_regions_cover_each_pixel_once(most: int) -> None:
    plane = blobs((4, 40, 40))[2]
    covered = np.zeros(plane.shape, int)
    for label, polygons in outlines(plane, most).items():
        for polygon in polygons:
            assert len(polygon) <= most
            covered += label * polygon2mask(plane.shape, polygon)
    assert np.array_equal(covered, plane)


@pytest.mark.parametrize("spacing", [0.0007, 0.05, 0.9765625, 3.0])
@pytest.mark.parametrize("away", [0.0, -4999.987654])
def test_values_are_decimal_strings_and_fine_enough_for_their_pixels(
    spacing: float, away: float
) -> None:
    series = make_series(3, 12, 10, (2.0, spacing, spacing), OBLIQUE, (away, away, away))
    answer = answer_of(source_of(series), blobs((3, 12, 10)))
    made = encode_structure_set(answer)
    for _, contour in contours(read(made)):
        values = bytes(contour.get_item("ContourData").value).decode().strip().split("\\")
        assert max(len(value) for value in values) <= 16
    verify_structure_set(made, answer)


def test_each_contour_names_the_instance_at_its_position() -> None:
    source = small(SAGITTAL)
    by_uid = {one.SOPInstanceUID: one for one in source.instances}
    for _, contour in contours(read(encode_structure_set(answered(source=source)))):
        (image,) = contour.ContourImageSequence
        instance = by_uid[image.ReferencedSOPInstanceUID]
        assert image.ReferencedSOPClassUID == instance.SOPClassUID
        assert "ReferencedFrameNumber" not in image
        assert contour.ContourData[0] == pytest.approx(instance.ImagePositionPatient[0])


def test_contours_of_an_enhanced_source_name_its_frames() -> None:
    series = make_series(12, 30, 40, (2.0, 1.0, 0.5))
    source = source_of([make_enhanced(series)])
    answer = answered(source=source)
    made = encode_structure_set(answer)
    frames = source.instances[0].PerFrameFunctionalGroupsSequence
    for _, contour in contours(read(made)):
        (image,) = contour.ContourImageSequence
        position = frames[image.ReferencedFrameNumber - 1].PlanePositionSequence[0]
        assert contour.ContourData[2] == pytest.approx(position.ImagePositionPatient[2])
    (frame,) = read(made).ReferencedFrameOfReferenceSequence
    (study,) = frame.RTReferencedStudySequence
    (image,) = study.RTReferencedSeriesSequence[0].ContourImageSequence
    assert image.ReferencedSOPInstanceUID == source.instances[0].SOPInstanceUID
    verify_structure_set(made, answer)


def test_contours_on_unevenly_spaced_slices_lie_where_the_slices_do() -> None:
    places = [0.0, 2.0, 4.0, 6.0, 9.0, 12.0, 15.0, 18.0]
    series = make_series(8, 30, 40, (2.0, 1.0, 0.5))
    for one, place in zip(series, places, strict=True):
        one.ImagePositionPatient = [-10.0, 20.0, 30.0 + place]
    source, rules = source_of(series), InputRules(resample=True)
    array = np.ones(assemble(source, rules).array.shape, np.uint8)
    answer = answer_of(source, array, rules=rules)
    made = encode_structure_set(answer)
    found = [float(contour.ContourData[2]) for _, contour in contours(read(made))]
    assert found == [30.0 + place for place in places]
    assert read(made).SeriesDescription == "Structure set: Hippocampus (resampled)"
    verify_structure_set(made, answer)


def test_an_roi_carries_name_codes_and_colour_of_its_segment() -> None:
    dataset = read(encode_structure_set(answered()))
    roi, drawn, observed = (
        dataset.StructureSetROISequence[0],
        dataset.ROIContourSequence[0],
        dataset.RTROIObservationsSequence[0],
    )
    assert (roi.ROIName, roi.ROIGenerationAlgorithm) == ("Anterior", "AUTOMATIC")
    assert roi.ROIGenerationDescription == "Hippocampus 1.0 0123456789ab"
    assert tuple(drawn.ROIDisplayColor) == SEGMENTS[0].colour
    (kind,) = observed.RTROIIdentificationCodeSequence
    assert kind.CodeValue == HIPPOCAMPUS.value
    assert kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeValue == LEFT.value
    assert observed.SegmentedPropertyCategoryCodeSequence[0].CodeValue == STRUCTURE.value
    assert observed.RTROIInterpretedType == "ORGAN"


def test_what_is_no_anatomical_structure_is_not_called_an_organ() -> None:
    lesion = replace(STRUCTURE, value="49755003", meaning="Morphologically Altered Structure")
    model = make_model([replace(segment, category=lesion) for segment in SEGMENTS])
    dataset = read(encode_structure_set(replace(answered(), model=model)))
    assert not dataset.RTROIObservationsSequence[0].RTROIInterpretedType


def test_the_set_says_what_it_is_and_that_nobody_approved_it() -> None:
    model = replace(make_model(), profile=Profile.FAST, orientation_assumed=True)
    answer = replace(answered(), model=model, verdict=Verdict.CONSISTENT)
    dataset = read(encode_structure_set(answer))
    assert dataset.ApprovalStatus == "UNAPPROVED"
    assert dataset.StructureSetName == "Hippocampus (profile fast)"
    assert dataset.StructureSetDescription == (
        "Research use; not a medical device; orientation assumed; "
        "source whole: consistent when it was closed"
    )
    assert dataset.SeriesDescription == (
        "Structure set: Hippocampus (profile fast) (whole: consistent)"
    )
    assert (dataset.Modality, dataset.SeriesNumber) == ("RTSTRUCT", 4003)


def test_segments_without_a_voxel_are_no_rois_and_nothing_found_is_all_of_them_empty() -> None:
    array = np.zeros((12, 30, 40), np.uint16)
    empty = answered(array)
    made = encode_structure_set(empty)
    names = [roi.ROIName for roi in read(made).StructureSetROISequence]
    assert names == [segment.label for segment in SEGMENTS]
    assert not list(contours(read(made)))
    verify_structure_set(made, empty)
    array[3, 4, 5] = 5
    one = read(encode_structure_set(answered(array)))
    assert [roi.ROIName for roi in one.StructureSetROISequence] == ["Tail"]


def test_it_takes_the_place_of_an_earlier_structure_set() -> None:
    uids = answered().uids(ResultKind.STRUCTURE_SET)
    refs = [
        ObjectRef(kind, "", "1.2.3", uids.series_instance_uid, uids.sop_instance_uid)
        for kind in (ResultKind.SEGMENTATION, ResultKind.STRUCTURE_SET)
    ]
    answer = replace(answered(), predecessors=tuple(refs))
    made = encode_structure_set(answer)
    (item,) = read(made).PredecessorStructureSetSequence
    assert item.ReferencedSOPInstanceUID == uids.sop_instance_uid
    verify_structure_set(made, answer)
    with pytest.raises(Fatal, match="does not name the Structure Sets that it replaces"):
        verify_structure_set(encode_structure_set(answered()), answer)


def test_it_takes_the_place_of_all_earlier_structure_sets() -> None:
    named = replace(encode_structure_set(answered()).ref, form="")
    refs = [replace(named, sop_instance_uid=SOPInstanceUID(uid)) for uid in ("1.2.8", "1.2.9")]
    answer = replace(answered(), predecessors=tuple(refs))
    made = encode_structure_set(answer)
    items = read(made).PredecessorStructureSetSequence
    assert [item.ReferencedSOPInstanceUID for item in items] == ["1.2.8", "1.2.9"]
    verify_structure_set(made, answer)
    with pytest.raises(Fatal, match="does not name the Structure Sets that it replaces"):
        verify_structure_set(made, replace(answer, predecessors=tuple(refs[1:])))


@pytest.mark.parametrize("folder", REAL)
def test_dciodvfy_finds_no_fault_in_the_structure_set_of_a_real_series(
    shared_data: Path, tmp_path: Path, folder: str
) -> None:
    source = real_source(shared_data / folder)
    answer = _answer_about(source, REAL[folder])
    made = encode_structure_set(answer)
    verify_structure_set(made, answer)
    instance = source.instances[0]
    said = dciodvfy(made.content, tmp_path)
    assert said - dciodvfy(file_bytes(instance), tmp_path) == set()


def _answer_about(source: SourceSeries, rules: InputRules) -> Answer:
    return answer_of(source, blobs(assemble(source, rules).array.shape), rules=rules)


@pytest.mark.parametrize(
    ("orientation", "least"), [(AXIAL, 1.0), (OBLIQUE, 1.0), (SAGITTAL, 0.95), (CORONAL, 0.95)]
)
def test_plastimatch_reads_the_masks_back(
    tmp_path: Path, orientation: tuple[float, ...], least: float
) -> None:
    """Where columns run towards the feet it rasterizes on a shifted grid of its own."""
    judge = Path(sys.executable).parent / "plastimatch"
    if not judge.exists():
        pytest.skip("needs plastimatch: pip install plastimatch")
    answer = answered(source=small(orientation))
    write_series(list(answer.source.instances), tmp_path / "source")
    (tmp_path / "set.dcm").write_bytes(encode_structure_set(answer).content)
    sitk.WriteImage(image_of(answer.label_map), str(tmp_path / "grid.nrrd"))
    words = f"convert --input {tmp_path}/set.dcm --referenced-ct {tmp_path}/source "
    words += f"--fixed {tmp_path}/grid.nrrd --output-prefix {tmp_path}/out --prefix-format nrrd"
    subprocess.run([str(judge), *words.split()], capture_output=True, check=True)
    for segment in SEGMENTS[:2]:
        found = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / f"out/{segment.label}.nrrd")))
        assert dice(found > 0, answer.label_map.array == segment.number) >= least


def test_dcmtk_reads_it(tmp_path: Path) -> None:
    judge = shutil.which("drtdump")
    if judge is None:
        pytest.skip("needs DCMTK's drtdump")
    (tmp_path / "set.dcm").write_bytes(encode_structure_set(answered()).content)
    done = subprocess.run([judge, str(tmp_path / "set.dcm")], capture_output=True, text=True)
    assert done.returncode == 0
    assert "W:" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda d: _points(d, 0, 0.6), "differs from the label map|overlaps|leaves"),
        (lambda d: _points(d, 2, 0.1), "mm off slice"),
        (lambda d: d.ROIContourSequence[0].ContourSequence.pop(), "differs from the label map"),
        (
            lambda d: d.ROIContourSequence[0].ContourSequence.append(
                d.ROIContourSequence[0].ContourSequence[0]
            ),
            "overlaps",
        ),
        (lambda d: setattr(d, "PatientID", "P2"), "PatientID is not the source's"),
        (lambda d: setattr(d, "StudyInstanceUID", "1.2.3"), "StudyInstanceUID is not the source's"),
        (lambda d: _kind(d).__delattr__(MODIFIER), "ROI 1 is coded not at all, not 7771000"),
        (
            lambda d: setattr(_kind(d)[MODIFIER].value[0], "CodeValue", "24028007"),
            "ROI 1 is coded 24028007, not 7771000 .Left.",
        ),
        (
            lambda d: setattr(_kind(d, 1), MODIFIER, _kind(d)[MODIFIER].value),
            "ROI 2 has the code 7771000, which the Model does not give it",
        ),
        (
            lambda d: delattr(d.RTROIObservationsSequence[0], "AnatomicRegionSequence"),
            "ROI 1 is coded not at all, not 12738006 .Brain.",
        ),
        (lambda d: setattr(_kind(d), "CodeValue", "1"), "ROI 1 is coded 1, not 5366008"),
        (lambda d: setattr(d, "FrameOfReferenceUID", "1.2.3"), "Frame of Reference is 1.2.3"),
        (lambda d: d.StructureSetROISequence.pop(), "it has 1 ROIs, not 2"),
        (lambda d: setattr(d.StructureSetROISequence[0], "ROIName", "Liver"), 'named "Liver"'),
        (lambda d: d.RTROIObservationsSequence.reverse(), "stands where ROI 1 should"),
        (
            lambda d: setattr(
                d.ROIContourSequence[0].ContourSequence[0], "ContourGeometricType", "POINT"
            ),
            "is not closed",
        ),
        (lambda d: delattr(d, "ROIContourSequence"), "lacks what a Structure Set must have"),
    ],
)
def test_the_gate_stops_a_set_that_says_something_else(
    spoil: Callable[[Dataset], Any], sentence: str
) -> None:
    answer = answered()
    made = encode_structure_set(answer)
    dataset = read(made)
    spoil(dataset)
    with pytest.raises(Fatal, match=sentence):
        verify_structure_set(ResultObject(made.ref, (file_bytes(dataset),)), answer)


def _kind(dataset: Dataset, index: int = 0) -> Dataset:
    """What the Structure Set says that an ROI is."""
    kind: Dataset
    (kind,) = dataset.RTROIObservationsSequence[index].RTROIIdentificationCodeSequence
    return kind


def _points(dataset: Dataset, axis: int, off_mm: float) -> None:
    contour = dataset.ROIContourSequence[0].ContourSequence[0]
    values = [float(value) for value in contour.ContourData]
    values[axis::3] = [value + off_mm for value in values[axis::3]]
    contour.ContourData = [round(value, 4) for value in values]


def test_the_gate_stops_bytes_that_are_no_dicom() -> None:
    made = encode_structure_set(answered())
    with pytest.raises(Fatal, match="cannot be parsed"):
        verify_structure_set(ResultObject(made.ref, (b"no DICOM",)), answered())


def test_a_label_without_a_segment_is_refused() -> None:
    with pytest.raises(Fatal, match="label 4 is in the label map, but hippocampus has no such"):
        encode_structure_set(answered(np.full((12, 30, 40), 4, np.uint8)))


def test_planes_that_are_not_the_slices_of_the_labels_are_refused() -> None:
    answer = answered()
    with pytest.raises(Fatal, match="does not lie on the slice"):
        encode_structure_set(replace(answer, planes=answer.planes[::-1]))
    with pytest.raises(Fatal, match="11 planes for the 12 slices"):
        encode_structure_set(replace(answer, planes=answer.planes[:-1]))
