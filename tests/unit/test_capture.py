"""The pictures that leave, judged by pydicom and dciodvfy. How they look, a person must look at."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

from node.core.errors import Fatal
from node.core.model import Profile
from node.core.result import ResultKind, Wants
from node.core.verdict import Verdict
from node.dicom.assemble import assemble
from node.dicom.results.answer import Answer, ResultObject
from node.dicom.results.captures.encode import encode_captures
from node.dicom.results.captures.pictures import MOST
from node.dicom.results.captures.verify import verify_captures
from node.dicom.results.make import make_objects
from node.dicom.series import SourceSeries
from tests.answers import answer_of, file_bytes
from tests.judges import dciodvfy
from tests.models import SEGMENTS, blobs, make_model, source_of
from tests.real import REAL, real_source
from tests.series_factory import AXIAL, CORONAL, SAGITTAL, make_enhanced, make_series

OBLIQUE = (0.8, 0.6, 0.0, -0.36, 0.48, 0.8)


def small(
    orientation: tuple[float, ...] = AXIAL, spacing: tuple[float, float, float] = (2.0, 1.0, 1.0)
) -> SourceSeries:
    return source_of(make_series(12, 30, 40, spacing, orientation))


def answered(array: NDArray[Any] | None = None, source: SourceSeries | None = None) -> Answer:
    labels = blobs((12, 30, 40)) if array is None else array
    return answer_of(source or small(), labels)


def read(made: Sequence[ResultObject]) -> list[Dataset]:
    return [dcmread(BytesIO(one.content)) for one in made]


def slice_numbers(made: Sequence[ResultObject], answer: Answer) -> list[int]:
    uids = [plane.sop_instance_uid for plane in answer.planes]
    return [
        uids.index(dataset.SourceImageSequence[0].ReferencedSOPInstanceUID)
        for dataset in read(made)
    ]


def in_colour(picture: Dataset, colour: tuple[int, int, int]) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = (picture.pixel_array == colour).all(axis=2)
    return found


@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL, CORONAL, OBLIQUE])
@pytest.mark.parametrize("spacing", [(2.0, 1.0, 1.0), (2.0, 3.0, 1.0), (2.0, 0.5, 0.75)])
def test_pictures_of_any_grid_pass_the_gate(
    orientation: tuple[float, ...], spacing: tuple[float, float, float]
) -> None:
    answer = answered(source=small(orientation, spacing))
    verify_captures(encode_captures(answer), answer)


def test_an_outline_runs_along_the_voxels_it_encloses_in_mm() -> None:
    array = np.zeros((12, 30, 40), np.uint8)
    array[5, 10:20, 8:24] = 1
    (picture,) = read(encode_captures(answered(array, small(spacing=(2.0, 3.0, 1.5)))))
    mm = float(picture.PixelSpacing[0])
    red = in_colour(picture, SEGMENTS[0].colour)[: round(30 * 3.0 / mm)]
    rows, columns = np.flatnonzero(red.any(axis=1)), np.flatnonzero(red.any(axis=0))
    assert np.array([rows[0], rows[-1] + 1]) * mm == pytest.approx([30.0, 60.0])
    assert np.array([columns[0], columns[-1] + 1]) * mm == pytest.approx([12.0, 36.0])
    assert not red[round(45 / mm), round(24 / mm)], "the inside stays to be seen"


def test_the_slices_where_segments_are_largest_are_shown() -> None:
    array = np.zeros((12, 30, 40), np.uint8)
    array[1, 2:4, 2:4], array[2, 2:9, 2:9], array[3, 2:4, 2:4] = 1, 1, 1
    array[8, 20:28, 20:28], array[9, 20:22, 20:22] = 2, 2
    array[11, 0, 0] = 5
    answer = answered(array)
    made = encode_captures(answer)
    assert {2, 8, 11} <= set(slice_numbers(made, answer)) <= {1, 2, 3, 8, 9, 11}
    assert [dataset.InstanceNumber for dataset in read(made)] == list(range(1, len(made) + 1))


def test_no_more_than_nine_pictures_are_made_of_any_number_of_segments() -> None:
    array = np.zeros((40, 30, 40), np.uint8)
    array[np.arange(40), 3, 3] = np.arange(1, 41)
    segments = [replace(SEGMENTS[0], number=n, label=f"structure {n}") for n in range(1, 41)]
    source = source_of(make_series(40, 30, 40))
    answer = answer_of(source, array, model=make_model(segments))
    made = encode_captures(answer)
    assert len(made) == MOST
    verify_captures(made, answer)


def test_pictures_are_of_one_series_and_of_one_size() -> None:
    made = encode_captures(answered())
    pictures = read(made)
    assert len({picture.SeriesInstanceUID for picture in pictures}) == 1
    assert len({(picture.Rows, picture.Columns) for picture in pictures}) == 1
    assert len({picture.SOPInstanceUID for picture in pictures}) == len(pictures)
    assert [one.ref.sop_instance_uid for one in made] == [p.SOPInstanceUID for p in pictures]
    assert pictures[0].SeriesNumber == 3003


def test_nothing_found_is_a_picture_of_the_middle() -> None:
    answer = answered(np.zeros((12, 30, 40), np.uint8))
    made = encode_captures(answer)
    assert slice_numbers(made, answer) == [6]
    verify_captures(made, answer)


def test_a_picture_says_what_it_is() -> None:
    model = replace(make_model(), profile=Profile.FAST, orientation_assumed=True)
    answer = replace(answered(), model=model, verdict=Verdict.CONSISTENT)
    picture = read(encode_captures(answer))[0]
    assert picture.ImageType == ["DERIVED", "SECONDARY"]
    assert (picture.ConversionType, picture.BurnedInAnnotation) == ("WSD", "NO")
    assert picture.PatientOrientation == ["L", "P"]
    assert picture.ImageComments == "Research use; not a medical device"
    assert picture.SeriesDescription == "Pictures: Hippocampus (profile fast) (whole: consistent)"


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [(SAGITTAL, ["P", "F"]), (CORONAL, ["L", "F"]), (OBLIQUE, ["LP", "HPR"])],
)
def test_the_patients_sides_are_stated(orientation: tuple[float, ...], expected: list[str]) -> None:
    picture = read(encode_captures(answered(source=small(orientation))))[0]
    assert picture.PatientOrientation == expected


def test_the_same_input_gives_the_same_bytes_and_no_name_is_drawn() -> None:
    first = [one.content for one in encode_captures(answered())]
    time.sleep(1.1)  # a clock that was read would show: times have whole seconds
    assert [one.content for one in encode_captures(answered())] == first
    source = small()
    for instance in source.instances:
        instance.PatientName, instance.PatientID = "Other^Name", "P2"
    pixels = [one.PixelData for one in read(encode_captures(answered(source=source)))]
    assert pixels == [dcmread(BytesIO(content)).PixelData for content in first]


def test_frames_of_an_enhanced_source_are_shown_and_named() -> None:
    series = make_series(12, 30, 40)
    answer = answered(source=source_of([make_enhanced(series)]))
    made = encode_captures(answer)
    verify_captures(made, answer)
    classic = answered(source=source_of(series))
    pixels = [picture.PixelData for picture in read(encode_captures(classic))]
    assert [picture.PixelData for picture in read(made)] == pixels
    assert all(picture.SourceImageSequence[0].ReferencedFrameNumber for picture in read(made))


def test_the_window_is_the_sources_and_percentiles_where_it_shows_nothing() -> None:
    def brightness(centre: float | None, width: float | None) -> float:
        instances = make_series(12, 30, 40)
        for one in instances:
            one.WindowCenter, one.WindowWidth = centre, width
        picture = read(encode_captures(answered(source=source_of(instances))))[0]
        return float(picture.pixel_array[:300].mean())

    usual = brightness(None, None)
    assert brightness(450, 900) == pytest.approx(usual, abs=3)  # values are 0 to 900
    assert brightness(1100, 2200) < usual - 30
    assert brightness(30_000, 10) == pytest.approx(usual)
    assert brightness(0, 60_000) == pytest.approx(usual)


def test_long_names_and_a_hundred_segments_on_a_slice_fit() -> None:
    array = np.zeros((12, 30, 40), np.uint8)
    array[5] = np.arange(40) % 40 + np.arange(30)[:, None] // 10 * 40
    segments = [replace(SEGMENTS[0], number=n, label=f"{n} " + "very " * 30) for n in range(1, 121)]
    answer = answer_of(small(), array, model=make_model(segments))
    made = encode_captures(answer)
    verify_captures(made, answer)
    assert max(read(made)[0].Rows, read(made)[0].Columns) < 6000


@pytest.mark.parametrize("folder", REAL)
def test_dciodvfy_finds_no_fault_in_the_pictures_of_a_real_series(
    shared_data: Path, tmp_path: Path, folder: str
) -> None:
    source, rules = real_source(shared_data / folder), REAL[folder]
    array = blobs(assemble(source, rules).array.shape)
    answer = answer_of(source, array, rules=rules)
    made = encode_captures(answer)
    verify_captures(made, answer)
    said = dciodvfy(made[0].content, tmp_path)
    assert said - dciodvfy(file_bytes(source.instances[0]), tmp_path) == set()


def _repainted(change: Callable[[NDArray[np.uint8]], Any]) -> Callable[[Dataset], None]:
    def spoil(dataset: Dataset) -> None:
        pixels = dataset.pixel_array.copy()
        changed = change(pixels)
        dataset.PixelData = (pixels if changed is None else changed).tobytes()

    return spoil


def _without_outlines(pixels: NDArray[np.uint8]) -> None:
    pixels[(pixels == SEGMENTS[0].colour).all(axis=2)] = 0


def _with_a_stray(pixels: NDArray[np.uint8]) -> None:
    pixels[3, 3] = SEGMENTS[0].colour


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (_repainted(_without_outlines), "along the edge of Segment 1 are not drawn in picture 1"),
        (_repainted(_with_a_stray), "picture 1 has 1 pixels in the colour of no Segment"),
        (_repainted(lambda pixels: pixels[:, ::-1]), "not drawn in picture 1"),
        (lambda d: setattr(d, "PixelSpacing", [0.2, 0.2]), "not drawn|in the colour of no"),
        (lambda d: setattr(d, "PatientName", "Other^Name"), "of picture 1, its PatientName is not"),
        (
            lambda d: setattr(d, "BurnedInAnnotation", "YES"),
            "of picture 1, its Burned In Annotation is",
        ),
        (lambda d: setattr(d, "InstanceNumber", 7), "its Instance Number is 7, not 1"),
        (lambda d: setattr(d, "PatientOrientation", ["R", "P"]), "Patient Orientation of picture"),
        (lambda d: setattr(d, "PatientOrientation", ["P", "L"]), "Patient Orientation of picture"),
        (lambda d: setattr(d, "Laterality", "L"), "Laterality of picture 1 is L, not None"),
        (lambda d: setattr(d, "ImageLaterality", "R"), "ImageLaterality of picture 1 is R"),
        (lambda d: delattr(d, "SourceImageSequence"), "lacks what it must have"),
        (lambda d: setattr(d, "PixelData", b"\0\0"), "lacks what it must have"),
    ],
)
def test_the_gate_stops_a_picture_that_shows_something_else(
    spoil: Callable[[Dataset], Any], sentence: str
) -> None:
    array = np.zeros((12, 30, 40), np.uint8)
    array[3:7, 8:20, 8:20] = 1
    answer = answered(array)
    made = encode_captures(answer)
    dataset = read(made)[0]
    spoil(dataset)
    changed = ResultObject(made[0].ref, (file_bytes(dataset),))
    with pytest.raises(Fatal, match=sentence):
        verify_captures([changed, *made[1:]], answer)


def test_the_gate_stops_a_mirrored_slice_under_outlines_that_are_right() -> None:
    answer = answered(np.zeros((12, 30, 40), np.uint8))
    made = encode_captures(answer)
    dataset = read(made)[0]
    pixels = dataset.pixel_array.copy()
    pixels[:300, :400] = pixels[:300, :400][:, ::-1]
    dataset.PixelData = pixels.tobytes()
    with pytest.raises(Fatal, match="shows its slice mirrored"):
        verify_captures([ResultObject(made[0].ref, (file_bytes(dataset),))], answer)


def test_the_gate_stops_what_is_no_picture() -> None:
    answer = answered()
    with pytest.raises(Fatal, match="there is none"):
        verify_captures([], answer)
    ref = encode_captures(answer)[0].ref
    with pytest.raises(Fatal, match="cannot be parsed"):
        verify_captures([ResultObject(ref, (b"no DICOM",))], answer)


def test_a_peer_that_wants_contours_and_pictures_gets_them_after_the_segmentation() -> None:
    wants = [Wants(report=False), Wants(segmentation=None, structure_set=True, capture=True)]
    made = list(make_objects(answered(), wants, lambda stage: None))
    kinds = [one.ref.kind for one in made]
    assert list(dict.fromkeys(kinds)) == [
        ResultKind.SEGMENTATION,
        ResultKind.STRUCTURE_SET,
        ResultKind.CAPTURE,
    ]
    assert kinds.count(ResultKind.CAPTURE) > 1
    assert len({one.ref.sop_instance_uid for one in made}) == len(made)
