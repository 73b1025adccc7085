"""What is deleted when, and what never is: real SQLite, real files, crashes in between."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy

from node.core.errors import Fatal
from node.core.job import Job, JobEvent, JobState
from node.core.names import AETitle, SeriesInstanceUID, SOPInstanceUID
from node.core.uids import result_uids
from node.dicom.trash import Trash
from node.lanes.clock import WatchedClock
from node.lanes.retain import RetentionLane
from node.retention import Purged, purge, would_purge
from node.store import database
from node.store.channel_orders import ChannelRoute
from node.store.deliveries import DeliveryStore
from node.store.jobs import JobStore
from node.store.orders import JobOrder
from node.store.retention import Periods, RetentionStore
from node.store.series import SeriesStore, StoredInstance
from node.store.waiting import ChannelFit, WaitingStore
from tests.stored import segmented, the_one

NOW, DAY = 1_000_000.0, 86_400.0
PERIODS = Periods(delivered_days=7, failed_days=30, unrouted_days=3)
UID = SeriesInstanceUID("1.2.3")
SLICES = 3


class Folder:
    """A data folder with Series of three Instances, 10 bytes each."""

    def __init__(self, path: Path, engine: sqlalchemy.Engine) -> None:
        self.path = path
        self.series, self.jobs = SeriesStore(engine), JobStore(engine)
        self.deliveries, self.retention = DeliveryStore(engine), RetentionStore(engine)
        self.trash = Trash(path)

    def receive(self, number: int, uid: SeriesInstanceUID = UID, sha256: str = "aa") -> str | None:
        name = f"instances/s{uid}/i{number}.dcm"
        held = self.series.add(
            StoredInstance(
                series_instance_uid=uid,
                study_instance_uid="1.2",
                sop_instance_uid=SOPInstanceUID(f"{uid}.{number}"),
                sop_class_uid="1.2.840.10008.5.1.4.1.1.4",
                modality="MR",
                transfer_syntax_uid="1.2.840.10008.1.2.1",
                sha256=sha256,
                size_bytes=10,
                path=name,
                calling_ae_title=AETitle("MODALITY"),
                received_at=NOW,
            ),
            NOW,
        )
        (self.path / name).parent.mkdir(parents=True, exist_ok=True)
        (self.path / name).write_bytes(b"0123456789")
        return held

    def receive_all(self, uid: SeriesInstanceUID = UID) -> None:
        for number in range(SLICES):
            self.receive(number, uid)

    def close(self, *orders: JobOrder, fits: tuple[ChannelFit, ...] = ()) -> list[Job]:
        seen = self.series.get(UID)
        assert seen is not None
        jobs = self.series.close(seen, "quiet", "routed", orders, NOW, fits)
        assert jobs is not None
        return jobs

    def job(self) -> Job:
        """A Job of the Series with its result file."""
        self.receive_all()
        (job,) = self.close(order("in"))
        self.segment(job)
        return job

    def segment(self, job: Job) -> None:
        result = self.path / "results" / str(job.id)
        result.mkdir(parents=True)
        (result / "seg.dcm").write_bytes(b"01234")
        segmented(self.jobs, job, NOW)

    def deliver(self, at: float = NOW) -> None:
        taken = self.deliveries.take("pacs", at)
        assert taken is not None
        assert self.deliveries.delivered(the_one(taken), "stored", at) is not None

    def purge(self, days: float, periods: Periods = PERIODS) -> list[Purged]:
        now = NOW + days * DAY + 1
        told = list(would_purge(self.retention, self.trash, periods, now))
        assert list(would_purge(self.retention, self.trash, periods, now)) == told
        done = list(purge(self.retention, self.trash, periods, now))
        assert {(one.what, one.name, one.size_bytes) for one in told} == {
            (one.what, one.name, one.size_bytes) for one in done
        }
        assert list(purge(self.retention, self.trash, periods, now)) == []
        return done

    def files(self) -> int:
        return sum(path.is_file() for path in self.path.rglob("*.dcm"))


def order(fingerprint: str, model: str = "model") -> JobOrder:
    uids = result_uids(fingerprint, model)
    return JobOrder((UID,), "route", model, f"fp of {model}", fingerprint, uids, ("pacs",))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    engine = database.connect(tmp_path)
    database.migrate(engine)
    yield Folder(tmp_path, engine)
    engine.dispose()


def test_files_go_when_the_delivery_is_confirmed_and_the_period_over(folder: Folder) -> None:
    job = folder.job()
    folder.deliver()
    assert folder.purge(6.9) == []
    series, result = folder.purge(7)
    assert (series.what, series.name, series.size_bytes) == ("series", UID, 10 * SLICES)
    assert (result.what, result.name, result.size_bytes) == ("result", str(job.id), 5)
    assert series.why == "delivered more than 7 days ago"
    assert folder.files() == 0


def test_the_story_stays_and_says_that_the_files_are_deleted(folder: Folder) -> None:
    job = folder.job()
    folder.deliver()
    folder.purge(7)
    seen, after = folder.series.get(UID), folder.jobs.get(job.id)
    assert seen is not None
    assert after is not None
    assert seen.instances == SLICES
    assert seen.purged_at == after.purged_at == NOW + 7 * DAY + 1
    purged = [e.detail for e in folder.jobs.events(job.id) if e.event == "PURGE"]
    assert purged == [
        f"the instance files of Series {UID} are deleted: delivered more than 7 days ago",
        "the result files are deleted: delivered more than 7 days ago",
    ]
    with pytest.raises(Fatal, match="the result files of Job 1 are deleted"):
        folder.jobs.resend(job.id, JobState.DELIVERED, NOW)


def test_what_an_open_job_needs_is_never_deleted(folder: Folder) -> None:
    folder.receive_all()
    queued, other = folder.close(order("in"), order("in", "another model"))
    folder.segment(other)
    assert folder.purge(1000) == []
    folder.jobs.transition(queued.id, JobState.QUEUED, JobEvent.FAIL, NOW)
    assert folder.purge(1000) == []  # the other waits for a Peer that is down
    folder.deliver()
    assert folder.purge(29) == [
        Purged("result", str(other.id), 5, "delivered more than 7 days ago")
    ]
    (series,) = folder.purge(30)
    assert series.why == "failed, refused or cancelled more than 30 days ago"


def test_an_open_series_is_never_deleted(folder: Folder) -> None:
    folder.receive_all()
    assert folder.purge(1000) == []


def test_what_waits_for_a_channel_is_not_deleted(folder: Folder) -> None:
    folder.receive_all()
    route = ChannelRoute("both", "model", "mo", ("T1", "FLAIR"), ("pacs",), 0, 600.0, "conditions")
    folder.close(fits=(ChannelFit(route, (0,), "frame"),))
    assert folder.purge(1000) == []
    waiting = WaitingStore(database.connect(folder.path))
    assert len(waiting.refuse_due([route], NOW + 600)) == 1
    assert folder.purge(29) == []
    assert [one.what for one in folder.purge(31)] == ["series"]


def test_what_another_channel_waits_with_is_not_deleted(folder: Folder) -> None:
    folder.receive_all()
    three = ("T1", "FLAIR", "T2")
    route = ChannelRoute("three", "model", "mo", three, ("pacs",), 0, 600.0, "conditions")
    folder.close(fits=(ChannelFit(route, (0,), "frame"),))
    waiting = WaitingStore(database.connect(folder.path))
    assert len(waiting.refuse_due([route], NOW + 600)) == 1
    flair = SeriesInstanceUID("1.2.4")
    folder.receive_all(flair)
    seen = folder.series.get(flair)
    assert seen is not None
    later = NOW + 31 * DAY
    assert folder.series.close(seen, "quiet", "", [], later, [ChannelFit(route, (1,), "f")]) == []
    assert folder.purge(31) == []  # T2 may still come for both
    assert len(waiting.refuse_due([route], later + 600)) == 1
    assert [one.name for one in folder.purge(62)] == [UID, flair]


def test_unrouted_series_have_a_period_of_their_own(folder: Folder) -> None:
    folder.receive_all()
    folder.close()
    assert folder.purge(2.9) == []
    assert [one.why for one in folder.purge(3)] == ["unrouted for more than 3 days"]


def test_a_cancelled_job_that_was_superseded_does_not_hold_the_files(folder: Folder) -> None:
    folder.receive_all()
    folder.close(order("in"))
    folder.receive(SLICES)
    (second,) = folder.close(order("in2"))
    folder.segment(second)
    folder.deliver()
    assert [one.what for one in folder.purge(7)] == ["series", "result"]


def test_zero_days_keep_for_ever(folder: Folder) -> None:
    folder.job()
    folder.deliver()
    assert folder.purge(99_999, Periods(0, 0, 0)) == []


def test_a_purged_failed_job_runs_again_once_its_series_came_again(folder: Folder) -> None:
    folder.receive_all()
    (job,) = folder.close(order("in"))
    folder.jobs.transition(job.id, JobState.QUEUED, JobEvent.FAIL, NOW)
    folder.purge(30)
    with pytest.raises(Fatal, match=r"files of Series 1\.2\.3 are deleted.*send it again"):
        folder.jobs.rerun(job.id, JobState.FAILED, NOW)
    folder.receive_all()
    assert all(one.path for one in folder.series.instances(UID))
    assert folder.close(order("in")) == []  # the very input: no second Job
    assert folder.jobs.rerun(job.id, JobState.FAILED, NOW).state is JobState.QUEUED


def test_a_late_instance_of_a_purged_series_is_known_to_be_a_part_of_it(folder: Folder) -> None:
    folder.job()
    folder.deliver()
    folder.purge(7)
    assert folder.receive(SLICES) is None
    seen = folder.series.get(UID)
    assert seen is not None
    assert (seen.closed_at, seen.purged_at, seen.instances) == (None, None, SLICES + 1)
    assert [bool(one.path) for one in folder.series.instances(UID)] == [False] * SLICES + [True]
    assert folder.receive(0, sha256="bb") is None  # a corrected one takes the place of the old
    assert folder.receive(0, sha256="bb") == "bb"


def test_an_instance_that_comes_between_mark_and_sweep_keeps_the_files(folder: Folder) -> None:
    folder.job()
    folder.deliver()
    now = NOW + 8 * DAY
    assert [one.name for one in folder.retention.mark_series(PERIODS, now)] == [UID]
    folder.receive(0)  # here another process would have died, or a sender sent again
    left = list(purge(folder.retention, folder.trash, PERIODS, now))
    assert [one.what for one in left] == ["result"]
    assert folder.files() == SLICES


def test_a_purge_that_died_in_between_is_ended_by_the_next(folder: Folder) -> None:
    folder.job()
    folder.deliver()
    now = NOW + 8 * DAY
    folder.retention.mark_series(PERIODS, now)  # and dies: marked, not swept
    assert [one.why for one in would_purge(folder.retention, folder.trash, PERIODS, now)] == [
        "marked before, and left on disk by a crash",
        "delivered more than 7 days ago",
    ]
    assert [one.what for one in purge(folder.retention, folder.trash, PERIODS, now)] == [
        "series",
        "result",
    ]
    (folder.path / "trash" / "sX").mkdir()  # and dies: taken, not deleted
    (folder.path / "trash" / "sX" / "i.dcm").touch()
    list(purge(folder.retention, folder.trash, PERIODS, now))
    assert list((folder.path / "trash").iterdir()) == []


def test_two_purges_at_once_are_harmless(folder: Folder) -> None:
    uids = [SeriesInstanceUID(f"1.2.{number}") for number in range(60)]
    for uid in uids:
        folder.receive_all(uid)
        seen = folder.series.get(uid)
        assert seen is not None
        folder.series.close(seen, "quiet", "unrouted", [], NOW)
    found: list[list[Purged]] = []

    def run() -> None:
        store = RetentionStore(database.connect(folder.path))
        found.append(list(purge(store, Trash(folder.path), PERIODS, NOW + 9 * DAY)))

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 3
    names = sorted(one.name for each in found for one in each)
    assert names == sorted(uids)
    assert folder.files() == 0


def test_what_was_set_aside_goes_after_the_longer_period(folder: Folder) -> None:
    import os

    aside = folder.path / "aside"
    aside.mkdir()
    for name, age in (("old", 31), ("young", 29)):
        for suffix in (".dcm", ".txt"):
            path = aside / f"{name}{suffix}"
            path.write_text("x")
            os.utime(path, (0, NOW - age * DAY))
    assert [one.name for one in folder.purge(0)] == ["old.dcm", "old.txt"]


# --- a clock that is set


class Clocks:
    """A wall clock that can be set, and one that cannot."""

    def __init__(self) -> None:
        self.wall, self.steady = NOW, 500.0

    def pass_by(self, seconds: float) -> None:
        self.wall, self.steady = self.wall + seconds, self.steady + seconds

    def lane(self, folder: Folder) -> RetentionLane:
        """As after a start."""
        clock = WatchedClock(
            folder.path / "retention.clock", lambda: self.wall, lambda: self.steady
        )
        return RetentionLane(folder.retention, folder.trash, PERIODS, clock)


@pytest.fixture
def delivered(folder: Folder) -> Folder:
    folder.job()
    folder.deliver()
    return folder


def test_a_clock_that_is_set_forward_by_a_week_deletes_nothing(delivered: Folder) -> None:
    clocks = Clocks()
    lane = clocks.lane(delivered)
    lane.step()
    held = delivered.files()
    clocks.pass_by(3600)
    clocks.wall += 8 * DAY
    for _ in range(20):
        lane.step()
        clocks.pass_by(3600)
    assert delivered.files() == held


def test_a_clock_that_is_set_right_again_is_believed_at_once(delivered: Folder) -> None:
    clocks = Clocks()
    lane = clocks.lane(delivered)
    lane.step()
    clocks.pass_by(6.9 * DAY)
    clocks.wall += 5 * DAY
    lane.step()
    assert delivered.files()
    clocks.wall -= 5 * DAY
    lane.step()
    assert delivered.files()
    clocks.pass_by(0.2 * DAY)
    lane.step()
    assert not delivered.files()


def test_a_clock_that_nobody_sets_back_is_believed_after_a_day(delivered: Folder) -> None:
    clocks = Clocks()
    lane = clocks.lane(delivered)
    lane.step()
    clocks.wall += 8 * DAY
    lane.step()
    clocks.pass_by(1.01 * DAY)
    lane.step()
    assert not delivered.files()


def test_a_clock_that_is_wrong_at_a_start_deletes_nothing_either(delivered: Folder) -> None:
    clocks = Clocks()
    clocks.lane(delivered).step()
    held = delivered.files()
    clocks.wall, clocks.steady = NOW + 8 * DAY, 10.0  # the machine started anew
    clocks.lane(delivered).step()
    clocks.pass_by(3600)
    lane = clocks.lane(delivered)  # and the node once more
    lane.step()
    assert delivered.files() == held
    clocks.pass_by(1.01 * DAY)
    lane.step()
    assert not delivered.files()


def test_a_night_off_and_a_machine_that_slept_are_no_jump(delivered: Folder) -> None:
    clocks = Clocks()
    clocks.lane(delivered).step()
    clocks.pass_by(0.5 * DAY)
    lane = clocks.lane(delivered)
    lane.step()
    clocks.pass_by(7 * DAY)
    lane.step()
    assert not delivered.files()
