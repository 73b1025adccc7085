"""Recording and closing with a real store and real files: late, again, otherwise, never ended."""

import sqlite3
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import Dataset

from node.core.delivery import DeliveryState
from node.core.job import JobEvent, JobState
from node.core.names import SeriesInstanceUID
from node.core.verdict import Verdict
from node.dicom.closing.evidence import Count, count_values
from node.lanes.record import RecordLane
from node.store import database
from tests import arrivals
from tests.series_factory import make_series
from tests.stored import segmented, the_one
from tests.ward import LONG_ENOUGH, ROUTE, Ward


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    engine = database.connect(tmp_path)
    database.migrate(engine)
    yield Ward(tmp_path, engine)
    engine.dispose()


def _proven(name: str = "series", slices: int = 20) -> list[Dataset]:
    series = make_series(slices=slices, name=name)
    for one in series:
        one.ImagesInAcquisition = slices
    return series


def test_a_proven_series_is_a_job_at_once(ward: Ward) -> None:
    series = _proven()
    arrivals.keep(ward.inbox, series)
    ward.step()
    assert ward.of(series).verdict is Verdict.PROVEN
    (job,) = ward.jobs_of(series)
    assert (job.state, job.verdict) == (JobState.QUEUED, Verdict.PROVEN)


def test_a_consistent_series_is_a_job_after_its_settling_time_only(ward: Ward) -> None:
    series = make_series()
    arrivals.keep(ward.inbox, series)
    ward.step()
    assert ward.jobs_of(series) == []
    ward.step(0.3)
    (job,) = ward.jobs_of(series)
    assert job.verdict is Verdict.CONSISTENT


def test_a_stream_of_other_series_does_not_keep_one_from_closing(ward: Ward) -> None:
    series = _proven()
    arrivals.keep(ward.inbox, series)
    others = make_series(slices=200, name="other")
    association = arrivals.new_association()
    for number in range(20):  # something lies in incoming/ whenever the lanes look
        arrivals.keep(ward.inbox, others[number * 10 : number * 10 + 10], None, association)
        ward.recording.step()
        arrivals.keep(ward.inbox, others[:1], None, association)
        ward.closing.step()
        if ward.jobs_of(series):
            break
    assert ward.jobs_of(series)


def test_receiving_that_outruns_recording_delays_closing_by_what_came_before_only(
    ward: Ward,
) -> None:
    series = _proven()
    arrivals.keep(ward.inbox, series)
    others = iter(range(10_000))
    association = arrivals.new_association()
    recorded_at: list[int] = []  # how many batches were recorded when it was seen closed

    def receive(count: int) -> None:
        made = make_series(slices=count, rows=4, columns=4, name=f"other {next(others)}")
        arrivals.keep(ward.inbox, made, None, association)

    def batch_recorded() -> None:
        receive(150)  # while 100 were recorded
        ward.closing.step()
        recorded_at.append(len(ward.jobs_of(series)))

    receive(250)
    recording = RecordLane(ward.inbox, ward.series, batch_recorded)
    ward.closing = ward.closing_lane(recording)
    while not any(recorded_at) and len(recorded_at) < 12:
        recording.step()
    # 320 lay there when it was complete and first looked at
    assert recorded_at.index(1) <= 5


def test_what_lies_in_incoming_when_the_decision_begins_is_part_of_it(ward: Ward) -> None:
    series = make_series(slices=21)
    arrivals.keep(ward.inbox, series[:20])
    ward.recording.step()
    ward.closing.step()
    time.sleep(0.3)  # the settling time is over
    arrivals.keep(ward.inbox, series[20:])
    ward.closing.step()
    assert ward.jobs_of(series) == []
    ward.step(LONG_ENOUGH)
    assert ward.of(series).instances == 21
    assert len(ward.jobs_of(series)) == 1


@pytest.mark.parametrize("ending", ["aborted", "lost"])
def test_an_association_that_did_not_end_well_proves_nothing(ward: Ward, ending: str) -> None:
    series = _proven()
    arrivals.keep(ward.inbox, series, ending)
    ward.step(0.3)
    assert ward.of(series).closed_at is None
    ward.step(LONG_ENOUGH)
    assert ward.of(series).verdict is Verdict.UNPROVEN
    assert ward.jobs_of(series) == []
    assert 'route "all MR" wants consistent' in str(ward.of(series).routing)


def test_a_receiver_that_died_loses_all_that_it_had_open(ward: Ward) -> None:
    series = _proven()
    arrivals.keep(ward.inbox, series, None, "r1.7")
    arrivals.lose(ward.inbox.incoming_folder, "r1")
    ward.step()
    (association,) = ward.series.associations(ward.of(series).series_instance_uid)
    assert association.ending == "lost"


@pytest.mark.parametrize("left", [b"", b"\0" * 200, b'{"association": "te', b"null", b"{}"])
def test_an_end_that_a_power_cut_left_empty_is_a_lost_association(ward: Ward, left: bytes) -> None:
    series = _proven()
    name = arrivals.keep(ward.inbox, series, ending=None)
    end = ward.inbox.incoming_folder / f"{time.time_ns():020d}-{name}.end"
    end.write_bytes(left)
    ward.step(LONG_ENOUGH)
    (association,) = ward.series.associations(ward.of(series).series_instance_uid)
    assert association.ending == "lost"
    assert ward.of(series).verdict is Verdict.UNPROVEN
    assert ward.inbox.arrived() == []
    assert list((ward.folder / "aside").iterdir()) == []


def test_what_was_open_when_the_node_died_is_lost_once_all_is_recorded(ward: Ward) -> None:
    series = _proven()
    arrivals.keep(ward.inbox, series, None)
    time.sleep(0.01)
    again = RecordLane(ward.inbox, ward.series, lambda: None)  # as after a start
    again.step()
    (association,) = ward.series.associations(ward.of(series).series_instance_uid)
    assert association.ending == "lost"


def test_a_series_of_which_an_instance_was_refused_is_not_segmented(ward: Ward) -> None:
    series = make_series()
    arrivals.keep(ward.inbox, series, "incomplete")
    ward.step(LONG_ENOUGH)
    assert ward.of(series).verdict is Verdict.UNPROVEN
    assert ward.jobs_of(series) == []


@pytest.mark.parametrize("together", [True, False])
def test_an_instance_that_cannot_be_read_again_leaves_its_association_incomplete(
    ward: Ward, together: bool
) -> None:
    series = make_series(slices=21)
    association = arrivals.keep(ward.inbox, series, None)
    last = ward.inbox.arrived()[-1]
    last.write_bytes(last.read_bytes()[:200])
    if not together:
        ward.recording.step()
    arrivals.end(ward.inbox.incoming_folder, association, "released")
    ward.step(LONG_ENOUGH)
    assert [
        one.ending for one in ward.series.associations(ward.of(series).series_instance_uid)
    ] == ["incomplete"]
    assert ward.of(series).verdict is Verdict.UNPROVEN


def test_an_association_that_stays_open_blocks_nothing_for_ever_and_its_release_helps(
    ward: Ward,
) -> None:
    series = _proven()
    association = arrivals.keep(ward.inbox, series, None)
    ward.step(LONG_ENOUGH)
    assert ward.of(series).verdict is Verdict.UNPROVEN
    assert ward.jobs_of(series) == []
    arrivals.end(ward.inbox.incoming_folder, association, "released")
    ward.step()
    assert ward.of(series).verdict is Verdict.PROVEN
    assert len(ward.jobs_of(series)) == 1


def test_an_association_that_ends_incomplete_lets_a_count_that_agrees_prove_its_series(
    ward: Ward,
) -> None:
    series = _proven()
    association = arrivals.keep(ward.inbox, series, None)
    ward.step(LONG_ENOUGH)
    assert ward.of(series).verdict is Verdict.UNPROVEN
    arrivals.end(ward.inbox.incoming_folder, association, "incomplete")
    ward.step()
    assert ward.of(series).verdict is Verdict.PROVEN
    assert len(ward.jobs_of(series)) == 1


def test_an_association_that_ends_aborted_lets_a_settled_count_prove_its_series(
    ward: Ward,
) -> None:
    series = make_series()
    uid = SeriesInstanceUID(str(series[0].SeriesInstanceUID))
    association = arrivals.keep(ward.inbox, series, None)
    ward.recording.step()
    settled = Count("pacs", 20, 20, 17, 1.0, compared=True, rested_seconds=1.0)
    ward.series.add_count(uid, "pacs", count_values(settled), time.time())
    ward.step(LONG_ENOUGH)
    assert ward.of(series).verdict is Verdict.UNPROVEN
    arrivals.end(ward.inbox.incoming_folder, association, "aborted")
    ward.step(LONG_ENOUGH)
    assert ward.of(series).verdict is Verdict.PROVEN


def test_the_same_bytes_again_over_a_released_association_vouch_for_an_aborted_one(
    ward: Ward,
) -> None:
    series = _proven()
    arrivals.keep(ward.inbox, series, "aborted")
    ward.step()
    arrivals.keep(ward.inbox, series, "released")
    ward.step()
    assert ward.of(series).verdict is Verdict.PROVEN
    assert ward.of(series).instances == 20


def test_the_same_bytes_again_over_an_aborted_association_take_nothing_away(ward: Ward) -> None:
    series = _proven()
    arrivals.keep(ward.inbox, series)
    ward.step()
    (job,) = ward.jobs_of(series)
    arrivals.keep(ward.inbox, series[:5], "aborted")
    ward.step()
    assert ward.of(series).verdict is Verdict.PROVEN
    assert [one.state for one in ward.jobs_of(series)] == [JobState.QUEUED]
    assert ward.jobs_of(series)[0].id == job.id


def test_other_bytes_are_kept_beside_and_told_with_the_series(ward: Ward) -> None:
    series = _proven()
    arrivals.keep(ward.inbox, series)
    ward.step()
    series[3].PatientComments = "changed"
    arrivals.keep(ward.inbox, series[3:4], calling="OTHER")
    ward.step()
    (told,) = ward.series.conflicts(ward.of(series).series_instance_uid)
    assert told["sop_instance_uid"] == series[3].SOPInstanceUID
    assert told["calling_ae_title"] == "OTHER"
    assert (ward.folder / "aside" / told["file"]).exists()
    assert [one.state for one in ward.jobs_of(series)] == [JobState.QUEUED]


def test_other_bytes_that_come_again_and_again_take_the_room_of_one(ward: Ward) -> None:
    series = _proven()
    arrivals.keep(ward.inbox, series)
    ward.step()
    series[3].PatientComments = "changed"
    for _ in range(2):
        arrivals.keep(ward.inbox, [series[3], series[3]])
        ward.step()
    copies = list((ward.folder / "aside").glob("*.dcm"))
    assert len(copies) == 4  # a name for each, by which an association is known
    assert len({path.stat().st_ino for path in copies}) == 1
    (told,) = ward.series.conflicts(ward.of(series).series_instance_uid)
    assert (ward.folder / "aside" / told["file"]).exists()
    assert ward.inbox.arrived() == []


def test_half_now_and_half_later_supersedes_also_a_result_that_has_not_left(ward: Ward) -> None:
    series = make_series(slices=40)
    arrivals.keep(ward.inbox, series[:20])
    ward.step(LONG_ENOUGH)
    (first,) = ward.jobs_of(series)
    segmented(ward.jobs, first, time.time())
    arrivals.keep(ward.inbox, series[20:])
    ward.step(LONG_ENOUGH)
    second, cancelled = ward.jobs_of(series)
    assert cancelled.state is JobState.CANCELLED
    assert ward.deliveries.take("pacs", time.time()) is None  # it must not leave any more
    assert second.supersedes == first.id
    assert ward.jobs.given_before(second) == []  # nobody has it: there is nothing to replace


def test_a_result_that_a_peer_may_have_is_named_as_the_predecessor(ward: Ward) -> None:
    series = make_series(slices=40)
    arrivals.keep(ward.inbox, series[:20])
    ward.step(LONG_ENOUGH)
    (first,) = ward.jobs_of(series)
    segmented(ward.jobs, first, time.time())
    taken = ward.deliveries.take("pacs", time.time())
    assert taken is not None
    ward.deliveries.give_back(the_one(taken))  # the node stopped before the Peer answered
    arrivals.keep(ward.inbox, series[20:30])
    ward.step(LONG_ENOUGH)
    arrivals.keep(ward.inbox, series[30:])
    ward.step(LONG_ENOUGH)
    third, second, _ = ward.jobs_of(series)
    assert second.state is JobState.CANCELLED
    (predecessor,) = ward.jobs.given_before(third)
    assert predecessor.sop_instance_uid == first.result_uids.sop_instance_uid
    assert ward.jobs.given_before(third, "pacs") == [predecessor]
    assert ward.jobs.given_before(third, "another") == []


def test_an_answer_to_an_attempt_of_before_a_rerun_settles_nothing(ward: Ward) -> None:
    series = _proven()
    arrivals.keep(ward.inbox, series)
    ward.step()
    (job,) = ward.jobs_of(series)
    segmented(ward.jobs, job, time.time())
    taken = ward.deliveries.take("pacs", time.time())
    assert taken is not None
    ward.jobs.transition(job.id, JobState.SEGMENTED, JobEvent.CANCEL, time.time())
    ward.jobs.rerun(job.id, JobState.CANCELLED, time.time())
    segmented(ward.jobs, job, time.time())
    assert ward.deliveries.delivered(the_one(taken), "stored", time.time()) is None
    (delivery,) = ward.jobs.deliveries(job.id)
    assert delivery.state is DeliveryState.OPEN


def test_one_file_that_cannot_be_read_stops_neither_the_others_nor_their_series(
    ward: Ward,
) -> None:
    broken, whole = make_series(name="broken"), _proven("whole")
    arrivals.keep(ward.inbox, broken, association="b.1")
    first = next(ward.inbox.incoming())
    kept = first.read_bytes()
    first.unlink()
    first.mkdir()  # reading it raises IsADirectoryError: an OSError, whoever runs the test
    arrivals.keep(ward.inbox, whole)
    ward.step()
    assert ward.of(whole).verdict is Verdict.PROVEN
    assert ward.of(broken).instances == 19
    assert list(ward.recording.unread()) == ["b.1"]
    first.rmdir()
    first.write_bytes(kept)
    ward.recording._again.clear()  # its time has come
    ward.step(LONG_ENOUGH)
    assert ward.of(broken).instances == 20
    assert len(ward.jobs_of(broken)) == 1


def test_a_batch_may_be_recorded_twice(ward: Ward) -> None:
    """As after a crash between the commit and the moves."""
    series = _proven()
    arrivals.keep(ward.inbox, series)
    lying = {path: path.read_bytes() for path in ward.inbox.arrived()}
    ward.recording.step()
    for path, raw in lying.items():
        path.write_bytes(raw)
    ward.step()
    assert ward.inbox.arrived() == []
    assert ward.of(series).instances == 20
    assert ward.of(series).verdict is Verdict.PROVEN


def test_a_file_of_before_associations_had_names_is_read_and_proves_nothing(ward: Ward) -> None:
    series = _proven()
    arrivals.keep(ward.inbox, series, association="a.1")
    for number, path in enumerate(ward.inbox.incoming()):
        path.rename(path.with_name(f"{time.time_ns():020d}-4711-{number:08d}.dcm"))
    ward.step(LONG_ENOUGH)
    assert ward.of(series).verdict is Verdict.UNPROVEN
    assert ward.of(series).instances == 20


def _as_of_schema_0001(ward: Ward) -> None:
    """The rows as the first version left them: nothing of the headers, nobody who brought them."""
    with sqlite3.connect(ward.folder / "segnode.sqlite") as connection:
        connection.execute("UPDATE instance SET planes='[]', number=NULL, association=NULL")
        connection.execute("DELETE FROM series_association")


def test_a_series_of_an_earlier_version_is_judged_by_the_headers_of_its_files(ward: Ward) -> None:
    series = make_series()
    del series[7]
    arrivals.keep(ward.inbox, series)
    ward.step(LONG_ENOUGH)
    _as_of_schema_0001(ward)
    ward.series.reopen(SeriesInstanceUID(str(series[0].SeriesInstanceUID)), time.time())
    ward.step(LONG_ENOUGH)
    assert "1 slice missing there" in str(ward.of(series).evidence)
    assert "InstanceNumber 8 is missing" in str(ward.of(series).evidence)
    assert "over an association that is unknown" in str(ward.of(series).evidence)


def test_a_series_of_an_earlier_version_that_is_sent_again_is_whole(ward: Ward) -> None:
    series = make_series()
    arrivals.keep(ward.inbox, series)
    ward.step(LONG_ENOUGH)
    _as_of_schema_0001(ward)
    ward.series.reopen(SeriesInstanceUID(str(series[0].SeriesInstanceUID)), time.time())
    ward.step(LONG_ENOUGH)
    assert ward.of(series).verdict is Verdict.UNPROVEN
    arrivals.keep(ward.inbox, series)
    ward.step(LONG_ENOUGH)
    assert ward.of(series).verdict is Verdict.CONSISTENT


def test_a_clock_that_is_set_forward_closes_nothing_early(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    series = make_series()
    arrivals.keep(ward.inbox, series, "aborted")
    ward.step()
    wall = time.time
    monkeypatch.setattr(time, "time", lambda: wall() + 86_400.0)
    ward.step(0.2)
    assert ward.of(series).closed_at is None


def test_text_that_no_database_takes_does_not_keep_a_series_from_closing(ward: Ward) -> None:
    """UTF-7 writes half a surrogate pair, which pydicom hands on and SQLite refuses."""
    series = _proven()
    for one in series:
        one.SpecificCharacterSet = "UTF_7"
        one.add_new("SeriesDescription", "LO", b"+2AA-abc")
        one.add_new("SequenceName", "SH", b"+2AA-abc\0")
    arrivals.keep(ward.inbox, series)
    ward.closing._routes = [replace(ROUTE, when={"SeriesDescription": "T1"})]
    ward.step(LONG_ENOUGH)
    closed = ward.of(series)
    assert closed.closed_at is not None
    assert 'SeriesDescription is "?abc"' in str(closed.routing)


def test_an_association_that_ended_before_its_only_instance_was_recorded_has_ended(
    ward: Ward,
) -> None:
    series = _proven(slices=1)
    association = arrivals.keep(ward.inbox, series)
    (path,) = ward.inbox.incoming()
    kept = path.read_bytes()
    path.unlink()
    path.mkdir()
    ward.recording.step()  # the end is recorded, the Instance cannot be read
    path.rmdir()
    path.write_bytes(kept)
    ward.recording._again.clear()
    ward.recording.step()
    (told,) = ward.series.associations(ward.of(series).series_instance_uid)
    assert (told.id, told.ending, told.calling_ae_title) == (association, "released", "MODALITY")
    assert not ward.series.open_series()[0].is_arriving


def test_what_was_open_is_lost_after_a_start_with_the_clock_set_back(ward: Ward) -> None:
    series = _proven()
    arrivals.keep(ward.inbox, series, None)
    ward.recording.step()
    hour_ago = time.time() - 3600
    assert ward.series.lose_open_associations(hour_ago, hour_ago + 1) == 1


def test_a_series_whose_files_were_deleted_by_hand_is_closed_and_says_so(ward: Ward) -> None:
    series = _proven()
    arrivals.keep(ward.inbox, series)
    ward.recording.step()
    uid = ward.of(series).series_instance_uid
    for path in ward.inbox.folder(uid).iterdir():
        path.unlink()
    ward.step(LONG_ENOUGH)
    assert ward.jobs_of(series) == []
    assert "the files of 20 of its 20 instances are gone" in str(ward.of(series).routing)
    assert f"segnode jobs rerun {uid}" in str(ward.of(series).routing)


def test_other_bytes_over_a_released_association_vouch_for_an_aborted_one(ward: Ward) -> None:
    series = _proven()
    arrivals.keep(ward.inbox, series, "aborted")
    ward.step()
    for one in series:
        one.PatientComments = "sent anew"
    arrivals.keep(ward.inbox, series, "released")
    ward.step()
    assert ward.of(series).verdict is Verdict.PROVEN
    assert len(ward.series.conflicts(ward.of(series).series_instance_uid)) == 20
    assert len(ward.series.associations(ward.of(series).series_instance_uid)) == 2


def test_what_came_between_two_looks_is_not_judged_by_the_silence_before_it(ward: Ward) -> None:
    series = make_series()
    arrivals.keep(ward.inbox, series[:10])
    ward.recording.step()
    ward.closing.step()
    (watched,) = ward.closing._watched.values()
    time.sleep(0.3)
    arrivals.keep(ward.inbox, series[10:15])
    ward.recording.step()
    ward.closing._look(watched)
    assert ward.of(series).closed_at is None
