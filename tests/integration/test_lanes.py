"""Lane 1 with a real store, real files and the one double: a Segmenter that thresholds."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy
from pydicom import Dataset, dcmread

from node import pipeline
from node.core.errors import Fatal, Temporary
from node.core.job import Job, JobEvent, JobState
from node.core.model import Model, Progress, Tell, tell_nobody
from node.core.result import ResultKind, Wants
from node.core.volume import LabelMap, Volume
from node.dicom.closing.times import Times
from node.dicom.inbox import Inbox
from node.dicom.outbox import Outbox
from node.dicom.routing import Route
from node.dicom.trash import Trash
from node.lanes.close import CloseLane
from node.lanes.lane import AT_ONCE, IDLE_SECONDS
from node.lanes.record import RecordLane
from node.lanes.refuse import RefusalLane
from node.lanes.segment import SegmentLane
from node.lanes.watch import JobsInHand
from node.retention import purge
from node.store import database
from node.store.deliveries import DeliveryStore
from node.store.jobs import JobStore
from node.store.recipients import RecipientStore
from node.store.retention import Periods, RetentionStore
from node.store.series import SeriesStore
from tests import arrivals
from tests.made_up import THRESHOLD
from tests.series_factory import make_series
from tests.stored import the_one

ROUTE = Route("all MR", "threshold", ("pacs", "viewer"), {"Modality": "MR"})


class ThresholdEngine:
    """Labels what is bright; `before` runs first and may raise; `during` may tell."""

    def __init__(self) -> None:
        self.before: Callable[[], object] = lambda: None
        self.during: Callable[[Tell], object] = lambda tell: None
        self.calls = 0

    def segment(
        self,
        volumes: Sequence[Volume],
        model: Model,
        tell: Tell = tell_nobody,
        probabilities: bool = False,
    ) -> LabelMap:
        self.calls += 1
        self.before()
        self.during(tell)
        (volume,) = volumes
        labels = (volume.array > 450).astype(np.uint8)
        return LabelMap(labels, volume.affine, volume.frame_of_reference_uid)


class World:
    """A data folder with its lanes, stepped by hand."""

    def __init__(self, folder: Path, engine: sqlalchemy.Engine) -> None:
        self.folder, self.sql = folder, engine
        self.inbox, self.outbox = Inbox(folder), Outbox(folder)
        self.series, self.jobs = SeriesStore(engine), JobStore(engine)
        self.deliveries = DeliveryStore(engine)
        self.engine = ThresholdEngine()
        self.wants = {"pacs": Wants(), "viewer": Wants(report=False)}
        models = {"threshold": THRESHOLD}
        self.recording = RecordLane(self.inbox, self.series, lambda: None)
        times = Times(settle_seconds=0.01, quiet_seconds=0.02)
        self.closing = CloseLane(
            self.inbox, self.series, [ROUTE], models, times, lambda: None, self.recording
        )
        in_hand = JobsInHand()
        self.segmenting, self.segmenting_too = (
            SegmentLane(
                name,
                in_hand,
                self.jobs,
                self.inbox,
                self.outbox,
                models,
                self.engine,
                self.wants,
                3,
                lambda: None,
            )
            for name in ("segment 0", "segment 1")
        )

    def receive(self, instances: Sequence[Dataset]) -> None:
        self.keep(instances)
        self.recording.step()

    def keep(self, instances: Sequence[Dataset]) -> None:
        arrivals.keep(self.inbox, instances)

    def close(self) -> Job:
        self.try_to_close()
        return self.jobs.list()[0]

    def try_to_close(self) -> None:
        """As the two lanes do it together, until what is quiet has been judged."""
        for _ in range(3):
            self.closing.step()
            self.recording.step()
            time.sleep(0.03)

    def job(self) -> Job:
        return self.jobs.list()[0]

    def results(self) -> list[Path]:
        """The result files of the latest Job."""
        job = self.job()
        uids = [one.sop_instance_uid for one in self.jobs.objects(job.id)]
        return self.outbox.files(job.id, uids)

    def job_of(self, earlier: Job) -> Job:
        found = self.jobs.get(earlier.id)
        assert found is not None
        return found


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    engine = database.connect(tmp_path)
    database.migrate(engine)
    yield World(tmp_path, engine)
    engine.dispose()


def test_a_series_becomes_a_verified_segmentation_file(world: World) -> None:
    instances = make_series()
    world.receive(instances)
    job = world.close()
    world.segmenting.step()
    assert world.job().state is JobState.SEGMENTED
    segmentation = dcmread(world.results()[0])
    assert segmentation.SOPInstanceUID == job.result_uids.sop_instance_uid
    assert segmentation.StudyInstanceUID == instances[0].StudyInstanceUID
    bright = sum(int((one.pixel_array > 450).sum()) for one in instances)
    assert int(segmentation.pixel_array.sum()) == bright
    assert set(world.job().timings) >= {"read", "assemble", "predict", "encode", "verify", "write"}


def test_a_step_that_runs_again_gives_the_same_bytes(world: World) -> None:
    world.receive(make_series())
    job = world.close()
    files = []
    for _ in range(2):  # as after a crash between the file and the state
        made = pipeline.segment(
            job,
            world.inbox,
            world.outbox,
            {"threshold": THRESHOLD},
            world.engine,
            list(world.wants.values()),
            pipeline.Unwatched(),
        )
        uids = [one.sop_instance_uid for one in made]
        files.append([path.read_bytes() for path in world.outbox.files(job.id, uids)])
    assert files[0] == files[1]
    assert [one.kind for one in made] == [ResultKind.SEGMENTATION, ResultKind.REPORT]


def test_the_bytes_that_a_peer_may_have_stay_whatever_a_later_attempt_makes(world: World) -> None:
    world.receive(make_series())
    job = world.close()
    world.segmenting.step()
    (path, *_) = world.results()
    path.write_bytes(b"as an earlier version made it")
    for peer in ("pacs", "viewer"):
        taken = world.deliveries.take(peer, time.time())
        assert taken is not None
        for one in taken[1]:
            world.deliveries.failed(one, "refused", time.time())
    world.jobs.rerun(job.id, JobState.FAILED, time.time())
    world.segmenting.step()
    assert path.read_bytes() == b"as an earlier version made it"


def test_a_series_that_makes_no_volume_is_rejected_with_the_reason(world: World) -> None:
    world.receive(make_series(slices=10))
    world.close()
    world.segmenting.step()
    job = world.job()
    assert job.state is JobState.REJECTED
    assert job.reason == "the Series has 10 slices; the Model needs at least 16"


def _refusing(world: World) -> RefusalLane:
    return RefusalLane(
        RecipientStore(world.sql),
        world.jobs,
        world.inbox,
        world.series,
        world.outbox,
        {"threshold": THRESHOLD},
        world.wants,
        lambda: None,
    )


def test_a_peer_that_wants_to_know_is_told_that_there_is_no_result_and_why(world: World) -> None:
    world.wants["viewer"] = Wants(refusal_report=True)
    instances = make_series(slices=10)
    world.receive(instances)
    job = world.close()
    world.segmenting.step()
    lane = _refusing(world)
    assert lane.step() == AT_ONCE
    assert lane.step() == IDLE_SECONDS
    assert world.deliveries.take("pacs", time.time()) is None
    delivery = the_one(world.deliveries.take("viewer", time.time()))
    assert delivery.kind is ResultKind.REFUSAL
    (path,) = world.outbox.files(job.id, [delivery.sop_instance_uid])
    document = dcmread(path)
    said = [str(one.value) for one in document.iterall() if one.keyword == "TextValue"]
    assert any("the Series has 10 slices; the Model needs at least 16" in text for text in said)
    (study,) = document.CurrentRequestedProcedureEvidenceSequence
    (series,) = study.ReferencedSeriesSequence
    assert len(series.ReferencedSOPSequence) == len(instances)


def test_a_full_disk_does_not_lose_the_word_that_there_is_no_result(world: World) -> None:
    world.wants["viewer"] = Wants(refusal_report=True)
    world.receive(make_series(slices=10))
    job = world.close()
    world.segmenting.step()
    place = world.folder / "results" / str(job.id)
    place.write_text("in the way")  # no folder can be made there, as on a full disk
    lane = _refusing(world)
    assert lane.step() > IDLE_SECONDS
    assert world.deliveries.take("viewer", time.time()) is None
    place.unlink()
    assert lane.step() == AT_ONCE
    assert the_one(world.deliveries.take("viewer", time.time())).kind is ResultKind.REFUSAL


def _raise(error: Exception) -> Callable[[], object]:
    def before() -> None:
        raise error

    return before


def test_what_may_pass_is_tried_three_times_with_pauses_and_then_failed(world: World) -> None:
    world.receive(make_series())
    world.close()
    world.engine.before = _raise(Temporary("the worker died"))
    world.segmenting.step()
    job = world.job()
    assert (job.state, job.attempts) == (JobState.QUEUED, 1)
    assert job.not_before > time.time()
    assert world.segmenting.step() > 0  # it waits
    assert world.engine.calls == 1
    for attempt in (2, 3):
        world.jobs.retry(job, 0.0, "time passes", time.time())
        world.segmenting.step()
        assert world.engine.calls == attempt
    assert (world.job().state, world.job().reason) == (JobState.FAILED, "the worker died")


def test_a_job_that_ends_its_process_each_time_is_failed_not_tried_for_ever(world: World) -> None:
    world.receive(make_series())
    world.close()
    for _ in range(3):  # taken, counted, and then the process died
        world.jobs.take_queued(time.time())
    world.segmenting.step()
    assert world.engine.calls == 0
    assert world.job().state is JobState.FAILED


def test_what_a_person_must_mend_is_failed_at_once(world: World) -> None:
    world.receive(make_series())
    world.close()
    world.engine.before = _raise(Fatal("no such device"))
    world.segmenting.step()
    assert (world.job().state, world.job().attempts) == (JobState.FAILED, 1)


def test_a_bug_fails_the_job_with_its_traceback_and_the_lane_lives_on(world: World) -> None:
    world.receive(make_series())
    world.close()
    world.engine.before = _raise(ZeroDivisionError("oops"))
    world.segmenting.step()
    assert world.job().state is JobState.FAILED
    assert "ZeroDivisionError: oops" in (world.job().reason or "")
    world.engine.before = lambda: None
    world.jobs.rerun(world.job().id, JobState.FAILED, time.time())
    world.segmenting.step()
    assert world.job().state is JobState.SEGMENTED


def test_a_stop_gives_the_attempt_back(world: World) -> None:
    world.receive(make_series())
    world.close()

    def stop() -> None:
        world.segmenting.request_stop()
        raise Temporary("the worker was stopped")

    world.engine.before = stop
    world.segmenting.step()
    assert (world.job().state, world.job().attempts) == (JobState.QUEUED, 0)


def test_a_late_slice_during_the_prediction_drops_the_result_and_makes_a_successor(
    world: World,
) -> None:
    instances = make_series(slices=21)
    world.receive(instances[:20])
    first = world.close()
    world.engine.before = lambda: world.receive(instances[20:])
    world.segmenting.step()
    assert [job.state for job in world.jobs.list()] == [JobState.CANCELLED]
    world.engine.before = lambda: None
    second = world.close()
    world.segmenting.step()
    assert second.supersedes == first.id
    assert second.result_uids != first.result_uids
    assert world.job().state is JobState.SEGMENTED


def test_a_note_of_rejection_names_what_its_peer_was_given_and_nothing_else(world: World) -> None:
    note = Wants(rejection_note=True)
    world.wants |= {"pacs": note, "viewer": replace(note, report=False)}
    instances = make_series(slices=21)
    world.receive(instances[:20])
    first = world.close()
    world.segmenting.step()
    segmentation, report = world.jobs.objects(first.id)
    for peer in ("pacs", "viewer"):
        assert world.deliveries.take(peer, time.time()) is not None  # they may have it from now on
    world.receive(instances[20:])
    second = world.close()
    world.segmenting.step()
    named = {}
    for peer in ("pacs", "viewer"):
        taken = world.deliveries.take(peer, time.time())
        assert taken is not None
        (rejection,) = (one for one in taken[1] if one.kind is ResultKind.REJECTION)
        (path,) = world.outbox.files(second.id, [rejection.sop_instance_uid])
        (study,) = dcmread(path).CurrentRequestedProcedureEvidenceSequence
        named[peer] = {
            str(item.ReferencedSOPInstanceUID)
            for one in study.ReferencedSeriesSequence
            for item in one.ReferencedSOPSequence
        }
    assert named == {
        "pacs": {segmentation.sop_instance_uid, report.sop_instance_uid},
        "viewer": {segmentation.sop_instance_uid},
    }


def test_the_same_slices_again_change_nothing(world: World) -> None:
    instances = make_series()
    world.receive(instances)
    job = world.close()
    world.segmenting.step()
    world.receive(instances)
    world.close()
    assert [one.id for one in world.jobs.list()] == [job.id]
    assert list(world.inbox.incoming()) == []
    assert world.inbox.aside_count() == 0


def test_a_slice_that_came_again_with_other_bytes_is_kept_aside(world: World) -> None:
    instances = make_series()
    world.receive(instances)
    instances[3].PatientComments = "changed"
    world.receive(instances[3:4])
    assert world.inbox.aside_count() == 1
    assert world.close().state is JobState.QUEUED


def test_instance_files_that_were_changed_on_disk_fail_the_job(world: World) -> None:
    world.receive(make_series())
    job = world.close()
    folder = world.inbox.folder(job.series_instance_uids[0])
    next(iter(sorted(folder.iterdir()))).unlink()
    world.segmenting.step()
    assert world.job().state is JobState.FAILED
    assert "not those that the Job was queued for" in (world.job().reason or "")


def test_what_was_safe_before_a_crash_is_recorded_after_it(world: World, tmp_path: Path) -> None:
    instances = make_series()
    world.keep(instances)  # acknowledged; and here the process died
    (tmp_path / "incoming" / "x.part").touch()
    assert world.inbox.clear_halves() == 1
    world.recording.step()
    (seen,) = world.series.open_series()
    assert seen.instances == len(instances)


def test_what_is_left_of_a_purged_series_is_not_segmented_as_if_it_were_whole(
    world: World, tmp_path: Path
) -> None:
    instances = make_series()
    world.receive(instances[:19])
    first = world.close()
    world.jobs.transition(first.id, JobState.QUEUED, JobEvent.CANCEL, time.time(), "by hand")
    store, trash = RetentionStore(database.connect(tmp_path)), Trash(tmp_path)
    assert len(list(purge(store, trash, Periods(1, 1, 1), time.time() + 90_000))) == 1
    world.receive(instances[18:])  # a late one, and one that was there before
    world.close()
    (seen,) = world.series.find(first.series_instance_uids[0])
    assert "the files of 18 of its 20 instances are gone" in (seen.routing or "")
    assert [job.id for job in world.jobs.list()] == [first.id]
    world.receive(instances)
    second = world.close()
    world.segmenting.step()
    assert (world.job_of(second).state, second.supersedes) == (JobState.SEGMENTED, first.id)


def test_progress_is_shown_and_a_note_stays_in_the_history(world: World) -> None:
    world.receive(make_series())
    world.close()
    stages = []

    def during(tell: Tell) -> None:
        tell(Progress(0.43, "out of memory; tried again with 1 tile at a time"))
        stages.append(world.job().stage)
        tell(Progress(0.44))  # within the same second: not written
        stages.append(world.job().stage)

    world.engine.during = during
    world.segmenting.step()
    assert stages == ["predict 43 %", "predict 43 %"]
    notes = [one.detail for one in world.jobs.events(world.job().id) if one.event == "NOTE"]
    assert notes == ["out of memory; tried again with 1 tile at a time"]
    assert (world.job().state, world.job().stage) == (JobState.SEGMENTED, None)


def test_a_job_that_is_cancelled_ends_its_prediction_and_stays_cancelled(world: World) -> None:
    world.receive(make_series())
    job = world.close()

    def during(tell: Tell) -> None:
        world.jobs.transition(job.id, JobState.QUEUED, JobEvent.CANCEL, time.time(), "by hand")
        tell(Progress(0.5))
        pytest.fail("the prediction goes on")

    world.engine.during = during
    world.segmenting.step()
    assert (world.job().state, world.job().reason) == (JobState.CANCELLED, "by hand")
    assert world.job().stage is None


def test_two_lanes_never_take_the_same_job(world: World) -> None:
    world.receive(make_series())
    first = world.close()
    begun, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        assert go_on.wait(20)

    world.engine.before = wait
    lane = threading.Thread(target=world.segmenting.step)
    lane.start()
    assert begun.wait(20)
    assert world.segmenting_too.step() > 0  # there is nothing for it to do
    world.engine.before = lambda: None
    world.receive(make_series(name="another"))
    second = world.close()
    world.segmenting_too.step()
    states = {job.id: (job.state, job.attempts) for job in world.jobs.list()}
    assert states == {first.id: (JobState.QUEUED, 1), second.id: (JobState.SEGMENTED, 1)}
    go_on.set()
    lane.join(20)
    assert world.job_of(first).state is JobState.SEGMENTED


def test_a_lane_that_is_done_with_a_job_lets_another_have_it(world: World) -> None:
    world.receive(make_series())
    job = world.close()
    world.engine.before = _raise(Temporary("the worker died"))
    world.segmenting.step()
    world.jobs.retry(job, 0.0, "time passes", time.time())
    world.engine.before = lambda: None
    world.segmenting_too.step()
    assert (world.job().state, world.job().attempts) == (JobState.SEGMENTED, 2)


def test_a_lane_wakes_at_once_and_stops_at_once(world: World) -> None:
    lane = world.segmenting
    lane.start()
    world.receive(make_series())
    world.close()
    lane.wake()
    deadline = time.monotonic() + 10
    while world.job().state is not JobState.SEGMENTED and time.monotonic() < deadline:
        time.sleep(0.01)
    assert world.job().state is JobState.SEGMENTED
    lane.request_stop()
    lane.join(5)
    assert not lane.is_alive()
