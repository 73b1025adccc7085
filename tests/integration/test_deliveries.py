"""Deliveries in a real SQLite: each object to each Peer on its own, confirmed, lost, told again."""

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy
from alembic import command

from node.core.delivery import DeliveryState
from node.core.errors import Fatal
from node.core.job import Job, JobEvent, JobState
from node.core.names import SOPInstanceUID
from node.core.result import ObjectRef, ResultKind
from node.store import database
from node.store.jobs import JobStore
from node.store.orders import JobOrder
from node.store.recipients import RecipientStore
from node.store.series import SeriesStore
from tests.stored import NOW, Stores, job_order, segmentation_of, segmented, the_one


def test_the_objects_of_a_job_that_are_due_to_a_peer_are_taken_together_in_order(
    stores: Stores,
) -> None:
    segmented(stores.jobs, stores.job, NOW, stores.report())
    taken = stores.deliveries.take("a", NOW)
    assert taken is not None
    assert [one.kind for one in taken[1]] == [ResultKind.SEGMENTATION, ResultKind.REPORT]
    assert stores.deliveries.take("a", NOW, {stores.job.id}) is None  # in another lane's hand


def test_each_object_has_its_own_outcome(stores: Stores) -> None:
    segmented(stores.jobs, stores.job, NOW, stores.report())
    taken, other = stores.deliveries.take("a", NOW), stores.deliveries.take("b", NOW)
    assert taken is not None
    assert other is not None
    stores.deliveries.delivered(taken[1][0], "stored, 0x0000", NOW)
    stores.deliveries.failed(taken[1][1], "takes no reports", NOW)
    for one in other[1]:
        finished = stores.deliveries.delivered(one, "stored, 0x0000", NOW)
    assert stores.states("a") == ["done", "failed"]
    assert finished is not None
    assert (finished.state, finished.reason) == (JobState.FAILED, "a: takes no reports")
    stores.jobs.resend(stores.job.id, JobState.FAILED, NOW)
    again = stores.deliveries.take("a", NOW)
    assert the_one(again).kind is ResultKind.REPORT
    assert stores.deliveries.take("b", NOW) is None


def test_what_a_peer_stored_is_not_delivered_before_it_confirms_it(stores: Stores) -> None:
    segmented(stores.jobs, stores.job, NOW)
    stores.deliveries.delivered(the_one(stores.deliveries.take("b", NOW)), "stored", NOW)
    sent = the_one(stores.deliveries.take("a", NOW))
    stores.deliveries.stored(sent, "stored, 0x0000", "2.25.1", NOW + 60, NOW)
    assert stores.states("a") == ["stored"]
    assert stores.now().state is JobState.SEGMENTED
    assert stores.deliveries.take("a", NOW + 1) is None  # it is not sent again
    assert stores.deliveries.take_unconfirmed("a", NOW + 59) is None
    kept = [sent.sop_instance_uid]
    assert stores.deliveries.committed("2.25.1", kept, {}, NOW + 5, by={"b"}) == []  # not its own
    (finished,) = stores.deliveries.committed("2.25.1", kept, {}, NOW + 5, by={"a"})
    assert finished.state is JobState.DELIVERED
    (delivery,) = stores.of("a")
    assert delivery.answer == "stored, 0x0000; confirmed by Storage Commitment"


def test_what_a_peer_does_not_keep_is_sent_again_after_a_pause(stores: Stores) -> None:
    segmented(stores.jobs, stores.job, NOW)
    sent = the_one(stores.deliveries.take("a", NOW))
    stores.deliveries.stored(sent, "stored, 0x0000", "2.25.1", NOW + 60, NOW)
    failed = {sent.sop_instance_uid: "it does not have it"}
    assert stores.deliveries.committed("2.25.1", [], failed, NOW + 1, {"a"}) == []
    (delivery,) = stores.of("a")
    assert delivery.state is DeliveryState.OPEN
    assert delivery.answer == "a does not keep it: it does not have it; it is sent again"
    assert stores.deliveries.take("a", NOW + 2) is None
    assert the_one(stores.deliveries.take("a", NOW + 7)).attempts == 2


def test_a_report_on_a_request_of_before_changes_nothing(stores: Stores) -> None:
    segmented(stores.jobs, stores.job, NOW)
    sent = the_one(stores.deliveries.take("a", NOW))
    stores.deliveries.stored(sent, "stored", "2.25.1", NOW + 60, NOW)
    stores.deliveries.lost(sent, "it is gone", NOW + 61)
    again = the_one(stores.deliveries.take("a", NOW + 100))
    stores.deliveries.stored(again, "stored", "2.25.2", NOW + 200, NOW + 100)
    kept = [sent.sop_instance_uid]
    assert stores.deliveries.committed("2.25.1", kept, {}, NOW + 101, {"a"}) == []
    assert stores.deliveries.committed("9.9.9", kept, {}, NOW + 101, {"a"}) == []
    assert stores.states("a") == ["stored"]


def test_what_was_not_confirmed_in_time_is_looked_for(stores: Stores) -> None:
    segmented(stores.jobs, stores.job, NOW)
    sent = the_one(stores.deliveries.take("a", NOW))
    stores.deliveries.stored(sent, "stored", "2.25.1", NOW + 60, NOW)
    taken = the_one(stores.deliveries.take_unconfirmed("a", NOW + 60))
    stores.deliveries.ask_later(taken, NOW + 120, "stored, not confirmed yet: it is down", NOW)
    assert stores.deliveries.take_unconfirmed("a", NOW + 119) is None
    taken = the_one(stores.deliveries.take_unconfirmed("a", NOW + 120))
    stores.deliveries.confirmed(taken, "confirmed: the Peer finds it", NOW + 121)
    assert stores.states("a") == ["done"]


def test_a_job_that_nobody_gets_anything_of_is_delivered(stores: Stores) -> None:
    moved = stores.jobs.segmented(
        stores.job.id, [segmentation_of(stores.job)], {"a": (), "b": ()}, NOW
    )
    assert moved.state is JobState.DELIVERED


def test_a_job_that_runs_again_sends_its_new_objects_and_remembers_who_has_the_old_ones(
    stores: Stores,
) -> None:
    segmented(stores.jobs, stores.job, NOW, stores.report())
    taken = stores.deliveries.take("a", NOW)
    assert taken is not None
    stores.deliveries.failed(taken[1][0], "refused", NOW)
    stores.deliveries.failed(taken[1][1], "refused", NOW)
    other = stores.deliveries.take("b", NOW)
    assert other is not None
    for one in other[1]:
        stores.deliveries.delivered(one, "stored", NOW)
    assert stores.now().state is JobState.FAILED
    stores.jobs.rerun(stores.job.id, JobState.FAILED, NOW)
    label_map = replace(
        segmentation_of(stores.job), form="labelmap", sop_instance_uid=SOPInstanceUID("1.9")
    )
    stores.jobs.segmented(stores.job.id, [label_map], {"a": [label_map], "b": []}, NOW)
    assert the_one(stores.deliveries.take("a", NOW)).sop_instance_uid == "1.9"
    assert stores.deliveries.take("b", NOW) is None
    given = {one.sop_instance_uid for one in stores.jobs.given(stores.job.id)}
    assert given == {
        segmentation_of(stores.job).sop_instance_uid, stores.report().sop_instance_uid, "1.9",
    }  # fmt: skip


def test_a_failed_job_without_a_result_cannot_be_sent_again(stores: Stores) -> None:
    stores.jobs.transition(stores.job.id, JobState.QUEUED, JobEvent.FAIL, NOW, "no such device")
    with pytest.raises(Fatal, match=f"segnode jobs rerun {stores.job.id}"):
        stores.jobs.resend(stores.job.id, JobState.FAILED, NOW)


def test_a_refusal_is_told_once_and_not_any_more_when_the_job_runs_again(stores: Stores) -> None:
    stores.jobs.transition(stores.job.id, JobState.QUEUED, JobEvent.REJECT, NOW, "tilted")
    refused = stores.recipients.refused()
    assert refused is not None
    ref = replace(segmentation_of(refused), kind=ResultKind.REFUSAL)
    stores.recipients.tell(refused, [ref], {"a": [ref]}, NOW)
    assert stores.recipients.refused() is None
    sent = the_one(stores.deliveries.take("a", NOW))
    assert sent.kind is ResultKind.REFUSAL
    stores.deliveries.retry(sent, NOW, "busy", NOW)
    stores.jobs.rerun(refused.id, JobState.REJECTED, NOW)
    assert stores.deliveries.take("a", NOW + 1) is None
    assert [one.kind for one in stores.jobs.given(refused.id)] == [ResultKind.REFUSAL]
    assert stores.states("a") == ["done"]  # nothing more will happen to it


def _refuse(stores: Stores, reason: str = "tilted") -> ObjectRef:
    """The Job is REJECTED, and a is to be told."""
    stores.jobs.transition(stores.job.id, JobState.QUEUED, JobEvent.REJECT, NOW, reason)
    refused = stores.recipients.refused()
    assert refused is not None
    uid = SOPInstanceUID(f"9.{len(stores.jobs.given(refused.id))}")
    ref = replace(segmentation_of(refused), kind=ResultKind.REFUSAL, sop_instance_uid=uid)
    stores.recipients.tell(refused, [ref], {"a": [ref]}, NOW)
    return ref


def _deliver_all(stores: Stores, *peers: str) -> None:
    for peer in peers:
        taken = stores.deliveries.take(peer, NOW + 1)
        assert taken is not None
        for one in taken[1]:
            stores.deliveries.delivered(one, "stored", NOW + 1)


def test_a_job_that_was_refused_once_can_be_delivered_and_sent_again(stores: Stores) -> None:
    _refuse(stores)
    _deliver_all(stores, "a")
    stores.jobs.rerun(stores.job.id, JobState.REJECTED, NOW)
    segmented(stores.jobs, stores.job, NOW)
    _deliver_all(stores, "a", "b")
    assert stores.now().state is JobState.DELIVERED
    stores.jobs.resend(stores.job.id, JobState.DELIVERED, NOW)
    assert the_one(stores.deliveries.take("a", NOW)).kind is ResultKind.SEGMENTATION


def test_a_job_whose_only_object_is_a_refusal_has_no_result_to_send(stores: Stores) -> None:
    stores.jobs.transition(stores.job.id, JobState.QUEUED, JobEvent.FAIL, NOW, "no device")
    refused = stores.recipients.refused()
    assert refused is not None
    ref = replace(segmentation_of(refused), kind=ResultKind.REFUSAL)
    stores.recipients.tell(refused, [ref], {"a": [ref]}, NOW)
    with pytest.raises(Fatal, match="has no result yet"):
        stores.jobs.resend(stores.job.id, JobState.FAILED, NOW)


def test_a_job_that_is_refused_again_tells_it_again(stores: Stores) -> None:
    _refuse(stores)
    stores.deliveries.retry(the_one(stores.deliveries.take("a", NOW)), NOW, "away", NOW)
    stores.jobs.rerun(stores.job.id, JobState.REJECTED, NOW)
    assert stores.jobs.objects(stores.job.id) == []
    second = _refuse(stores, "too few slices")
    assert the_one(stores.deliveries.take("a", NOW)).sop_instance_uid == second.sop_instance_uid


def test_that_there_is_no_result_is_not_told_once_another_job_reads_the_series(
    stores: Stores, tmp_path: Path
) -> None:
    _refuse(stores)
    later = _superseding(tmp_path)
    assert later.supersedes == stores.job.id
    assert stores.deliveries.take("a", NOW) is None


def test_a_refusal_waits_while_its_series_is_open_again(stores: Stores, tmp_path: Path) -> None:
    stores.jobs.transition(stores.job.id, JobState.QUEUED, JobEvent.REJECT, NOW, "tilted")
    SeriesStore(database.connect(tmp_path)).reopen(stores.job.series_instance_uids[0], NOW)
    assert stores.recipients.refused() is None


def test_only_what_the_last_attempt_made_is_sent_again_or_given_on(stores: Stores) -> None:
    old = segmentation_of(stores.job)
    segmented(stores.jobs, stores.job, NOW)
    _deliver_all(stores, "a")
    stores.deliveries.failed(the_one(stores.deliveries.take("b", NOW)), "refused", NOW)
    stores.jobs.rerun(stores.job.id, JobState.FAILED, NOW)
    new = replace(old, sop_instance_uid=SOPInstanceUID("1.9"))  # the Model was replaced
    stores.jobs.segmented(stores.job.id, [new], {"a": [new], "b": [new]}, NOW)
    _deliver_all(stores, "a", "b")
    assert stores.jobs.objects(stores.job.id) == [new]
    stores.jobs.resend(stores.job.id, JobState.DELIVERED, NOW)
    assert the_one(stores.deliveries.take("a", NOW)).sop_instance_uid == "1.9"
    assert stores.jobs.given(stores.job.id, "a") == sorted(
        [old, new], key=lambda one: one.sop_instance_uid
    )


def test_a_job_is_not_delivered_before_a_peer_that_came_later_got_its_part(
    stores: Stores, tmp_path: Path
) -> None:
    segmented(stores.jobs, stores.job, NOW)
    _route_again(tmp_path, "c")
    _deliver_all(stores, "a", "b")
    assert stores.now().state is JobState.SEGMENTED
    waiting = stores.recipients.waiting()
    assert waiting is not None
    assert waiting[1] == ["c"]
    stores.recipients.give(stores.job.id, {"c": [segmentation_of(stores.job)]}, NOW)
    _deliver_all(stores, "c")
    assert stores.now().state is JobState.DELIVERED
    assert stores.recipients.give(stores.job.id, {"c": [segmentation_of(stores.job)]}, NOW) is None
    assert stores.states("c") == ["done"]


def test_a_peer_that_comes_to_a_job_which_another_refused_gets_the_result(
    stores: Stores, tmp_path: Path
) -> None:
    segmented(stores.jobs, stores.job, NOW)
    _deliver_all(stores, "a")
    stores.deliveries.failed(the_one(stores.deliveries.take("b", NOW)), "refused", NOW)
    assert stores.now().state is JobState.FAILED
    _route_again(tmp_path, "c")
    stores.recipients.give(stores.job.id, {"c": [segmentation_of(stores.job)]}, NOW)
    _deliver_all(stores, "c")
    assert (stores.now().state, stores.now().reason) == (JobState.FAILED, "b: refused")


def test_what_one_peer_refused_can_be_sent_again_while_another_is_away(stores: Stores) -> None:
    segmented(stores.jobs, stores.job, NOW)
    stores.deliveries.failed(the_one(stores.deliveries.take("a", NOW)), "refused", NOW)
    stores.deliveries.retry(the_one(stores.deliveries.take("b", NOW)), NOW + 3600, "away", NOW)
    assert stores.jobs.resend(stores.job.id, JobState.SEGMENTED, NOW).state is JobState.SEGMENTED
    assert the_one(stores.deliveries.take("a", NOW)).attempts == 1
    assert the_one(stores.deliveries.take("b", NOW)).attempts == 2


def test_what_a_peer_lost_keeps_its_pause_when_it_takes_other_things(stores: Stores) -> None:
    segmented(stores.jobs, stores.job, NOW, stores.report())
    taken = stores.deliveries.take("a", NOW)
    assert taken is not None
    first, second = taken[1]
    stores.deliveries.stored(first, "stored", "2.25.1", NOW + 60, NOW)
    stores.deliveries.lost(first, "it is gone", NOW)
    stores.deliveries.delivered(second, "stored", NOW)
    assert stores.deliveries.take("a", NOW + 1) is None
    assert stores.deliveries.take("a", NOW + 6) is not None


def test_a_clock_set_back_asks_a_peer_once_not_without_end(stores: Stores) -> None:
    segmented(stores.jobs, stores.job, NOW)
    sent = the_one(stores.deliveries.take("a", NOW))
    stores.deliveries.stored(sent, "stored", "2.25.1", NOW + 60, NOW)
    earlier = NOW - 900
    taken = the_one(stores.deliveries.take_unconfirmed("a", earlier))
    stores.deliveries.ask_later(taken, earlier + 60, "stored, not confirmed yet", earlier)
    assert stores.deliveries.take_unconfirmed("a", earlier + 1) is None
    assert stores.deliveries.take_unconfirmed("a", earlier + 60) is not None


def test_peers_that_nothing_can_go_to_are_not_waited_for(stores: Stores) -> None:
    segmented(stores.jobs, stores.job, NOW)
    assert stores.deliveries.peers_waited_for() == {"a", "b"}
    stores.jobs.transition(stores.job.id, JobState.SEGMENTED, JobEvent.CANCEL, NOW, "by hand")
    assert stores.deliveries.peers_waited_for() == set()


def test_a_model_that_was_given_another_name_has_its_job_already(
    stores: Stores, tmp_path: Path
) -> None:
    renamed = replace(job_order(peers=("a", "b")), model="renamed")
    assert _close_again(tmp_path, renamed) == []
    assert stores.now().model == "renamed"


def _route_again(folder: Path, peer: str) -> None:
    """The Series is routed anew, and fits a Route to another Peer."""
    assert _close_again(folder, job_order(peers=("a", "b", peer))) == []


def _close_again(folder: Path, order: JobOrder) -> list[Job]:
    series = SeriesStore(database.connect(folder))
    assert series.reopen(order.series_instance_uids[0], NOW)
    seen = series.get(order.series_instance_uids[0])
    assert seen is not None
    return list(series.close(seen, "", "", [order], NOW) or [])


def _superseding(folder: Path) -> Job:
    """A later Job of the same Series with other Instances."""
    (later,) = _close_again(folder, job_order("in2"))
    return later


def _at(folder: Path, revision: str) -> sqlalchemy.Engine:
    engine = database.connect(folder)
    config = database._alembic()
    with database.writing(engine).begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    return engine


def test_deliveries_of_an_older_schema_keep_what_they_know(tmp_path: Path) -> None:
    _at(tmp_path, "0002").dispose()
    with sqlite3.connect(tmp_path / database.FILE_NAME) as old:
        for number, state in ((1, "DELIVERED"), (2, "QUEUED"), (3, "REJECTED")):
            old.execute(
                "INSERT INTO job (id, route, model, model_fingerprint, input_fingerprint, "
                "result_series_uid, result_sop_uid, state, attempts, not_before, created_at, "
                "updated_at, timings) VALUES (?, 'r', 'm', 'f', ?, '1.1', ?, ?, 1, 0, 0, 5, '{}')",
                (number, f"in{number}", f"1.2.{number}", state),
            )
        old.execute(
            "INSERT INTO delivery (job_id, peer, attempts, not_before, tried_at, answer, done_at) "
            "VALUES (1, 'pacs', 2, 7, 8, 'stored, 0x0000', 9)"
        )
        for number in (2, 3):
            old.execute(
                "INSERT INTO delivery (job_id, peer, attempts, not_before) "
                f"VALUES ({number}, 'pacs', 0, 0)"
            )
    engine = database.connect(tmp_path)
    database.migrate(engine)
    jobs = JobStore(engine)
    (kept,) = jobs.deliveries(jobs.list()[-1].id)
    assert (kept.kind, kept.sop_instance_uid, kept.attempts) == ("SEG", "1.2.1", 2)
    assert (kept.state, kept.answer) == ("done", "stored, 0x0000")
    assert [one.sop_instance_uid for one in jobs.given(kept.job_id)] == ["1.2.1"]
    assert {one.id: one.recipients for one in jobs.list()} == dict.fromkeys((1, 2, 3), ("pacs",))
    assert (
        RecipientStore(engine).refused() is None
    )  # nobody is told now of what was refused long ago
    engine.dispose()


def test_a_delivered_job_can_be_made_anew_by_way_of_a_cancelled_one(stores: Stores) -> None:
    segmented(stores.jobs, stores.job, NOW)
    for peer in ("a", "b"):
        stores.deliveries.delivered(the_one(stores.deliveries.take(peer, NOW)), "stored", NOW)
    again = stores.jobs.resend(stores.job.id, stores.now().state, NOW + 1)
    stores.jobs.transition(stores.job.id, again.state, JobEvent.CANCEL, NOW + 1, "by hand")
    stores.jobs.rerun(stores.job.id, JobState.CANCELLED, NOW + 1)
    segmented(stores.jobs, stores.job, NOW + 2, stores.report())
    assert stores.states("a") == ["open", "open"]
    assert {one.attempts for one in stores.of("a")} == {0}
