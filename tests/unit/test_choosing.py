"""Which candidate of a Series a Model takes, and when none is taken although one would fit."""

from collections.abc import Callable, Sequence

import pytest
from pydicom import Dataset

from node.core.errors import SeriesRejected
from node.core.model import InputRules
from node.dicom.assemble import stack
from tests.changes import again, setting
from tests.models import source_of
from tests.series_factory import CORONAL, make_series


def _numbers(instances: Sequence[Dataset], rules: InputRules | None = None) -> list[int | None]:
    made = stack(source_of(instances), rules or InputRules())
    return [plane.instance_number for plane in made.planes]


def _each(instances: list[Dataset], keyword: str, value: Callable[[int], object]) -> list[Dataset]:
    for index, one in enumerate(instances):
        setattr(one, keyword, value(index))
    return instances


def _tilted(instances: list[Dataset]) -> list[Dataset]:
    for index, one in enumerate(instances):
        x, y, z = one.ImagePositionPatient
        one.ImagePositionPatient = [x, y + index * 0.67, z]
    return instances


def _without(instances: list[Dataset], index: int) -> list[Dataset]:
    del instances[index]
    return instances


def _odd_end(**values: object) -> list[Dataset]:
    instances = make_series()
    for keyword, value in values.items():
        setattr(instances[-1], keyword, value)
    return instances


DAMAGED = {
    "an echo lacks a slice": lambda: [
        *_without(_each(make_series(), "EchoTime", lambda _: 10.0), 9),
        *again(make_series(), "echo 2", setting(EchoTime=80.0)),
    ],
    "the axial slices are tilted, the reformats are not": lambda: [
        *_tilted(make_series()),
        *again(make_series(8, orientation=CORONAL), "mpr", setting(ImageType=["DERIVED", "MPR"])),
    ],
    "one phase has a trigger time of its own in each slice": lambda: [
        *make_series(),
        *_each(again(make_series(), "phase 2", setting()), "TriggerTime", lambda i: 1.0 + 13 * i),
    ],
    "the main volume has cosines that make no sense, the small one beside it is sound": lambda: [
        *_each(make_series(), "ImageOrientationPatient", lambda _: [1, 0, 0, 1, 0, 0]),
        *again(make_series(5, rows=12, columns=12), "small", setting()),
    ],
    "one slice was acquired again": lambda: [
        *make_series(),
        *again(make_series()[4:5], "again", setting(AcquisitionNumber=2)),
    ],
}
ENDS = {
    "pixel spacing": lambda: _odd_end(PixelSpacing=[1.0, 0.5002]),
    "frame of reference": lambda: _odd_end(FrameOfReferenceUID=None),
    "orientation": lambda: _odd_end(
        ImageOrientationPatient=[0.999999, 0.00142, 0, -0.00142, 0.999999, 0]
    ),
    "derived": lambda: _odd_end(ImageType=["DERIVED", "SECONDARY"]),
}


@pytest.mark.parametrize("make", DAMAGED.values(), ids=DAMAGED)
def test_a_fault_of_one_candidate_does_not_choose_the_other(
    make: Callable[[], list[Dataset]],
) -> None:
    with pytest.raises(SeriesRejected, match=r"only a fault of the other candidate"):
        stack(source_of(make()), InputRules())


@pytest.mark.parametrize("make", ENDS.values(), ids=ENDS)
def test_a_slice_that_would_continue_the_volume_is_not_left_out(
    make: Callable[[], list[Dataset]],
) -> None:
    with pytest.raises(SeriesRejected, match=r"slice 20 .* lies where the next slice .*belongs"):
        stack(source_of(make()), InputRules())


def test_an_image_without_rows_may_belong_to_the_volume() -> None:
    instances = make_series()
    del instances[-1].Rows
    with pytest.raises(SeriesRejected, match=r"slice 20 .* has no Rows.*may belong"):
        stack(source_of(instances), InputRules())


def test_a_reformat_among_the_slices_is_no_slice() -> None:
    instances = _each(make_series(), "ImageType", lambda _: ["ORIGINAL", "PRIMARY", "AXIAL"])
    place = [*instances[0].ImagePositionPatient[:2], 37.3]
    change = setting(ImageType=["DERIVED", "SECONDARY", "REFORMATTED"], ImagePositionPatient=place)
    assert _numbers([*instances, *again(instances[:1], "mpr", change)]) == list(range(1, 21))
    mixed = _each(make_series(), "ImageType", lambda i: ["DERIVED" if i % 2 else "ORIGINAL", "X"])
    with pytest.raises(SeriesRejected, match=r"2 candidate volumes .* derived image"):
        stack(source_of(mixed), InputRules())


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("KVP", lambda i: 100 + i),
        ("XRayTubeCurrent", lambda i: 80 + 3 * i),
        ("TriggerTime", lambda i: 13.3 * i),
        ("EchoTime", lambda i: 10 + 0.001 * i),
        ("AcquisitionNumber", lambda i: 1 + i % 2),
        ("AcquisitionTime", lambda i: f"1201{i:02d}.5"),
        ("ImageType", lambda i: ["ORIGINAL", "PRIMARY", "M", f"{i}"]),
        ("ImageIndex", lambda i: 20 - i),
        ("InstanceNumber", lambda _: None),
        ("SliceLocation", lambda i: -i),
    ],
)
def test_what_differs_from_slice_to_slice_splits_no_volume(
    keyword: str, value: Callable[[int], object]
) -> None:
    instances = _each(make_series(), keyword, value)
    assert len(_numbers(instances)) == 20


def test_a_localizer_and_monitoring_images_at_one_place_are_left_out() -> None:
    localizer = setting(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    images = again(make_series(1, orientation=CORONAL), "localizer", localizer)
    monitoring = [
        one
        for number in range(5)
        for one in again(
            make_series(1, rows=12, columns=12), f"monitoring {number}", setting(InstanceNumber=90)
        )
    ]
    assert _numbers([*images, *monitoring, *make_series()]) == list(range(1, 21))
