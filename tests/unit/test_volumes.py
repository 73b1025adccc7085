"""How a Series is split into candidate volumes, from planes alone."""

import itertools
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.uid import EnhancedMRImageStorage, SecondaryCaptureImageStorage

from node.dicom.planes import MAX_FRAMES, Plane, plane_from, plane_values, planes_of
from node.dicom.rounding import rounding_mm
from node.dicom.volumes import Candidate, Fault, split
from tests.changes import Change, again, setting
from tests.series_factory import CORONAL, SAGITTAL, make_enhanced, make_series


def _split(instances: Sequence[Dataset]) -> tuple[Candidate, ...]:
    return split([plane for instance in instances for plane in planes_of(instance)])


def test_a_plain_series_is_one_candidate_without_a_fault_sorted_along_its_normal() -> None:
    instances = make_series()
    shuffled = [instances[i] for i in np.random.default_rng(1).permutation(len(instances))]
    (candidate,) = _split(shuffled)
    assert (candidate.why, candidate.fault, candidate.kind) == ("", None, None)
    assert [plane.instance_number for plane in candidate.planes] == list(range(1, 21))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (setting(EchoTime=80.0), "EchoTime 80"),
        (setting(EchoNumbers=2), "EchoNumbers 2"),
        (setting(TemporalPositionIdentifier=2), "TemporalPositionIdentifier 2"),
        (setting(TriggerTime=430.0), "TriggerTime 430"),
        (setting(NominalPercentageOfCardiacPhase=75.0), "NominalPercentageOfCardiacPhase 75"),
        (setting(KVP=140), "KVP 140"),
        (setting(ImageType=["ORIGINAL", "PRIMARY", "P"]), r"ImageType ORIGINAL\\PRIMARY\\P"),
        (setting(ImageType=["DERIVED", "SECONDARY", "MPR"]), "derived image"),
        (setting(AcquisitionNumber=2), "AcquisitionNumber 2"),
        (setting(DiffusionBValue=800.0), r"Diffusion 800"),
        (setting(ConvolutionKernel="B60"), "ConvolutionKernel B60"),
        (setting(Rows=12, Columns=12), "12 × 12 pixels"),
        (setting(PixelSpacing=[2.0, 2.0]), r"pixels of \(2, 2\) mm"),
        (setting(FrameOfReferenceUID="1.2.3"), "Frame of Reference 1.2.3"),
        (setting(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "localizer"),
    ],
)
def test_two_volumes_in_one_series_are_two_candidates_with_a_reason(
    change: Change, why: str
) -> None:
    first = make_series()
    candidates = _split([*first, *again(first, "again", change)])
    assert [len(candidate.planes) for candidate in candidates] == [20, 20]
    assert [candidate.fault for candidate in candidates] == [None, None]
    found = candidates[1].why.replace(".0", "")
    assert found.startswith(why.replace(r"\(", "(").replace(r"\)", ")").replace(r"\\", "\\"))
    assert candidates[0].why != candidates[1].why


def test_echoes_of_several_phases_are_told_apart_by_both() -> None:
    first = make_series()
    all_of_them = [
        one
        for echo in (10.0, 80.0)
        for phase in (1, 2, 3)
        for one in again(
            first, f"{echo} {phase}", setting(EchoTime=echo, TemporalPositionIdentifier=phase)
        )
    ]
    candidates = _split(all_of_them)
    assert [len(candidate.planes) for candidate in candidates] == [20] * 6
    assert {candidate.why for candidate in candidates} == {
        f"TemporalPositionIdentifier {phase}, EchoTime {echo}"
        for echo in (10.0, 80.0)
        for phase in (1, 2, 3)
    }


def test_directions_of_one_b_value_are_candidates_of_their_own() -> None:
    first = make_series()
    directions = ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0])
    candidates = _split(
        [
            *first,
            *(
                one
                for direction in directions
                for one in again(
                    first,
                    str(direction),
                    setting(DiffusionBValue=1000.0, DiffusionGradientOrientation=direction),
                )
            ),
        ]
    )
    assert [len(candidate.planes) for candidate in candidates] == [20] * 4
    assert all(candidate.fault is None for candidate in candidates)


def test_two_orientations_are_two_candidates() -> None:
    for orientation in (SAGITTAL, CORONAL):
        turned = again(make_series(orientation=orientation), "turned", setting())
        axial, other = _split([*make_series(), *turned])
        assert (axial.fault, other.fault) == (None, None)
        assert other.why == f"orientation ({', '.join(f'{value:g}' for value in orientation)})"


def test_a_classic_copy_beside_the_enhanced_one_is_not_doubled() -> None:
    first = make_series()
    enhanced = Dataset()
    enhanced.SOPClassUID, enhanced.SOPInstanceUID = EnhancedMRImageStorage, "1.2.3"
    enhanced.Rows, enhanced.Columns = first[0].Rows, first[0].Columns
    enhanced.FrameOfReferenceUID = first[0].FrameOfReferenceUID
    enhanced.NumberOfFrames = len(first)
    enhanced.PerFrameFunctionalGroupsSequence = [_groups(one) for one in first]
    classic, other = _split([*first, enhanced])
    assert (len(classic.planes), classic.why) == (20, "MR Image Storage")
    assert (len(other.planes), other.why) == (20, "Enhanced MR Image Storage")
    assert [plane.frame for plane in other.planes] == list(range(1, 21))
    enhanced.NumberOfFrames = 25
    assert _split([enhanced])[-1].kind is Fault.NO_PLACE


def _groups(one: Dataset) -> Dataset:
    groups, position, orientation, measures = Dataset(), Dataset(), Dataset(), Dataset()
    position.ImagePositionPatient = one.ImagePositionPatient
    orientation.ImageOrientationPatient = one.ImageOrientationPatient
    measures.PixelSpacing = one.PixelSpacing
    groups.PlanePositionSequence = [position]
    groups.PlaneOrientationSequence = [orientation]
    groups.PixelMeasuresSequence = [measures]
    return groups


def test_a_doubled_slice_that_nothing_tells_apart_is_a_fault() -> None:
    first = make_series()
    (candidate,) = _split([*first, *again(first[4:5], "again", setting())])
    assert candidate.kind is Fault.REPEATED
    assert candidate.fault is not None
    assert "slice 5 " in candidate.fault


def test_a_missing_slice_a_tilt_and_a_secondary_capture_are_told_apart() -> None:
    missing = make_series()
    del missing[9]
    tilted = make_series()
    for index, one in enumerate(tilted):
        x, y, z = one.ImagePositionPatient
        one.ImagePositionPatient = [x, y + index * 0.67, z]
    capture = again(make_series(), "capture", setting(SOPClassUID=SecondaryCaptureImageStorage))
    assert [one.kind for one in _split(missing)] == [Fault.UNEVEN]
    assert [one.kind for one in _split(tilted)] == [Fault.TILTED]
    assert [one.kind for one in _split(capture)] == [Fault.NO_VOLUME]
    assert [one.kind for one in _split(make_series()[:1])] == [Fault.TOO_FEW]


HOSTILE = [None, "", "x", [], [1], [0, 0, 0], [1e308] * 6, ["nan"] * 3, [float("inf")] * 6, "1\\2"]


@pytest.mark.parametrize("value", HOSTILE, ids=str)
@pytest.mark.parametrize(
    "keyword",
    [
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "PixelSpacing",
        "Rows",
        "Columns",
        "NumberOfFrames",
        "InstanceNumber",
        "AcquisitionNumber",
        "SOPClassUID",
        "ImageType",
        "EchoTime",
        "PerFrameFunctionalGroupsSequence",
    ],
)
def test_odd_values_raise_nothing_and_become_none(keyword: str, value: object) -> None:
    instances = make_series()
    raw = Dataset()
    for element in instances[3]:
        if element.keyword != keyword:
            raw[element.tag] = element
    try:
        setattr(raw, keyword, value)
    except Exception:  # pydicom itself will not hold it
        return
    planes = planes_of(raw)
    assert all(isinstance(plane, Plane) for plane in planes)
    assert split([*planes, *(p for one in instances for p in planes_of(one))])


def test_planes_survive_json_and_give_the_same_candidates() -> None:
    planes = [plane for one in make_series() for plane in planes_of(one)]
    kept = [plane_from(plane_values(plane)) for plane in planes]
    assert kept == planes
    assert split(kept) == split(planes)


def test_a_thousand_planes_take_milliseconds_and_many_orientations_end() -> None:
    (first,) = planes_of(make_series()[0])
    values = plane_values(first)
    stack = [plane_from({**values, "position": (0.0, 0.0, float(z))}) for z in range(1000)]
    began = time.process_time()
    assert [one.fault for one in split(stack)] == [None]
    assert time.process_time() - began < 0.1
    angles = np.linspace(0, 3, 5000)
    radial = [
        plane_from({**values, "orientation": (np.cos(a), np.sin(a), 0.0, 0.0, 0.0, -1.0)})
        for a in angles
    ]
    began = time.process_time()
    assert split(radial)
    assert time.process_time() - began < 5.0


def test_thousands_of_candidates_end() -> None:
    """A single header can claim them, and what is quadratic in their number never ends."""
    (first,) = planes_of(make_series()[0])
    values = plane_values(first)
    pairs = [
        plane_from(
            {**values, "position": (0.0, 0.0, float(i % 2)), "traits": {"EchoTime": str(i // 2)}}
        )
        for i in range(10_000)
    ]
    began = time.process_time()
    assert len(split(pairs)) == 5_000
    assert time.process_time() - began < 20.0


def test_an_object_that_claims_endless_frames_gets_one_plane_that_says_so() -> None:
    one = make_enhanced(make_series(slices=3))
    one.PerFrameFunctionalGroupsSequence = [Dataset()] * (MAX_FRAMES + 1)
    one.NumberOfFrames = MAX_FRAMES + 1
    planes = planes_of(one)
    assert [plane.position for plane in planes] == [None]
    (candidate,) = split(planes)
    assert f"more than the {MAX_FRAMES} frames that are read" in str(candidate.fault)


def _two_echoes(slices: int) -> list[Plane]:
    (first,) = planes_of(make_series()[0])
    return [
        replace(first, position=(0.0, 0.0, float(z)), traits={"EchoTime": echo})
        for z in range(slices)
        for echo in ("10", "80")
    ]


def test_endlessly_many_planes_at_repeated_places_are_not_taken_apart() -> None:
    assert len(split(_two_echoes(1000))) == 2
    (left,) = split(_two_echoes(5001))
    assert left.kind is Fault.REPEATED


# --- positions that were written with few decimals


def _rounded(slices: int, spacing: float, decimals: int, turn: str = "z") -> list[Dataset]:
    """A series whose positions were rounded when they were written."""
    cosines = {"z": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), "x": SAGITTAL}[turn]
    series = make_series(
        slices=slices,
        spacing_mm=(spacing, 1.0, 1.0),
        orientation=cosines,
        origin=(-10.0123, 20.0456, 30.0789),
    )
    for one in series:
        one.ImagePositionPatient = [round(float(v), decimals) for v in one.ImagePositionPatient]
    return series


@pytest.mark.parametrize("spacing", [0.625, 0.65, 0.7031, 0.9, 1.25, 2.33])
@pytest.mark.parametrize("decimals", [1, 2])
@pytest.mark.parametrize("turn", ["z", "x"])
def test_positions_that_are_rounded_honestly_are_even(
    spacing: float, decimals: int, turn: str
) -> None:
    (candidate,) = _split(_rounded(100, spacing, decimals, turn))
    assert candidate.fault is None


def test_thin_slices_of_which_most_are_missing_are_no_rounding() -> None:
    points = np.array([[0.0, 0.0, round(n * 0.3125, 1)] for n in (0, 4, 7)])
    assert rounding_mm(points, np.array([0.0, 0.0, 1.0])) == 0.0


@settings(max_examples=300, deadline=None)
@given(
    st.floats(0.3, 3.0),
    st.sampled_from([1, 2]),
    st.integers(4, 30),
    st.floats(-50.0, 50.0),
    st.data(),
)
def test_a_missing_slice_is_never_taken_for_rounding(
    spacing: float, decimals: int, slices: int, first: float, data: st.DataObject
) -> None:
    inner = st.sets(st.integers(1, slices - 2), min_size=1, max_size=slices - 3)
    missing = data.draw(inner)
    kept = [number for number in range(slices) if number not in missing]
    steps = {after - before for before, after in itertools.pairwise(kept)}
    assume(len(steps) > 1)  # each second one missing is another spacing, and nobody can tell
    points = np.array([[0.0, 0.0, round(first + n * spacing, decimals)] for n in kept])
    gaps = np.diff(points[:, 2])
    rounding = rounding_mm(points, np.array([0.0, 0.0, 1.0]))
    assert (np.abs(gaps - gaps.mean()) > rounding).any()


def test_two_spacings_are_no_rounding_however_near_they_are() -> None:
    series = make_series(slices=100, spacing_mm=(0.6, 1.0, 1.0), origin=(0.0, 0.0, 0.0))
    for number, one in enumerate(series):
        place = number * 0.6 + max(0, number - 50) * 0.1
        one.ImagePositionPatient = [0.0, 0.0, round(place, 1)]
    (candidate,) = _split(series)
    assert candidate.kind in (Fault.UNEVEN, Fault.OFF_GRID)
