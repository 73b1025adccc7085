"""What `segnode jobs` tells of deliveries that go wrong, of result objects, of successors."""

from dataclasses import replace
from pathlib import Path

import pytest

from node.core.names import SOPInstanceUID
from node.core.result import ObjectRef, ResultKind
from node.store.series import SeriesStore
from tests.command import CONFIG, run_in
from tests.stored import (
    NOW,
    UID,
    Stores,
    instance_of,
    job_order,
    seen_series,
    segmentation_of,
    segmented,
)


@pytest.fixture
def folder(tmp_path: Path, stores: Stores) -> Path:
    (tmp_path / "node.toml").write_text(CONFIG)
    return tmp_path


def _another(stores: Stores, number: int, kind: ResultKind, form: str = "") -> ObjectRef:
    plain = segmentation_of(stores.job)
    uid = SOPInstanceUID(f"{plain.sop_instance_uid[:55]}.{number}")
    return replace(plain, kind=kind, sop_instance_uid=uid, form=form)


def test_a_delivery_that_failed_stands_in_the_line_of_a_job_that_is_not_delivered_yet(
    folder: Path, stores: Stores
) -> None:
    segmented(stores.jobs, stores.job, NOW, stores.report())
    taken = stores.deliveries.take("a", NOW)
    assert taken is not None
    stores.deliveries.failed(taken[1][1], "takes no reports", NOW)
    head, line = run_in(folder, "jobs", "list").stdout.splitlines()
    assert head.split()[:3] + head.split()[-2:] == ["JOB", "STATE", "MODEL", "SERIES", "NOTE"]
    assert "  SEGMENTED  model → a, b  " in line
    assert line.endswith("  SR to a failed")
    stores.deliveries.retry(taken[1][0], NOW + 9e9, "a cannot be reached", NOW)
    other = stores.deliveries.take("b", NOW)
    assert other is not None
    stores.deliveries.failed(other[1][0], "refused", NOW)
    line = run_in(folder, "jobs", "list").stdout.splitlines()[1]
    assert line.endswith("2 of 4 deliveries failed; SEG to a tried again")


def test_a_job_is_found_by_the_uid_of_what_it_made(folder: Path, stores: Stores) -> None:
    segmented(stores.jobs, stores.job, NOW)
    made = segmentation_of(stores.job)
    for uid in (made.sop_instance_uid, made.series_instance_uid):
        told = run_in(folder, "jobs", "explain", uid).stdout.splitlines()
        assert told[0] == f"{uid} is of the result of Job {stores.job.id}"
        assert told[1] == f"Series {UID} (MR)"
    assert "received or made" in run_in(folder, "jobs", "explain", "1.9").stderr


def test_pictures_share_a_line_and_two_segmentations_are_told_apart(
    folder: Path, stores: Stores
) -> None:
    pictures = [_another(stores, number, ResultKind.CAPTURE) for number in range(9)]
    label_map = _another(stores, 99, ResultKind.SEGMENTATION, "labelmap, rle")
    segmented(stores.jobs, stores.job, NOW, label_map, *pictures)
    told = run_in(folder, "jobs", "show", str(stores.job.id)).stdout
    assert f"  result    SEG (labelmap, rle) {label_map.sop_instance_uid}\n" in told
    assert f"  result    SC {pictures[0].sop_instance_uid} and 8 more\n" in told
    assert told.count("  delivery  9 SC to a: open, 0 attempts\n") == 1
    assert told.count("  delivery  SEG (labelmap, rle) to b: open, 0 attempts\n") == 1


def test_a_job_that_another_took_the_place_of_says_which(folder: Path, stores: Stores) -> None:
    engine = stores.jobs._engine
    SeriesStore(engine).add(instance_of(2), NOW + 1)
    series = SeriesStore(engine)
    (later,) = (
        series.close(seen_series(engine), "quiet", "routed", [job_order("more")], NOW + 2) or []
    )
    told = run_in(folder, "jobs", "show", str(stores.job.id)).stdout
    assert f"  superseded by Job {later.id}\n" in told
