"""Jobs of several Series on real SQLite: whatever closes last, whatever is missing, once."""

import itertools
import time
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy

from node.core.errors import Fatal
from node.core.job import Job, JobEvent, JobState
from node.core.names import AETitle, SeriesInstanceUID, SOPInstanceUID
from node.lanes.give import GiveLane
from node.lanes.lane import AT_ONCE, IDLE_SECONDS
from node.store import database
from node.store.channel_orders import ChannelRoute
from node.store.deliveries import DeliveryStore
from node.store.jobs import JobStore
from node.store.recipients import RecipientStore
from node.store.series import SeriesStore, StoredInstance
from node.store.waiting import ChannelFit, WaitingStore
from tests.stored import segmented, the_one

T1, FLAIR, FLAIR_2 = (SeriesInstanceUID(f"1.2.{number}") for number in (1, 2, 3))
STUDY, NOW, WAIT = "1.2", 1000.0, 600.0
ROUTE = ChannelRoute("both", "model", "mo", ("T1", "FLAIR"), ("pacs",), 3, WAIT, "conditions")
OTHER = ChannelRoute("other", "model", "mo", ("T1", "FLAIR"), ("viewer",), 5, WAIT, "conditions")


class Store:
    """What a test asks of the store, in a word."""

    def __init__(self, engine: sqlalchemy.Engine) -> None:
        self.series, self.jobs = SeriesStore(engine), JobStore(engine)
        self.waiting = WaitingStore(engine)

    def receive(self, uid: SeriesInstanceUID, number: int = 1, study: str = STUDY) -> None:
        self.series.add(_instance(uid, number, study), NOW)

    def close(
        self,
        uid: SeriesInstanceUID,
        *channels: int,
        at: float = NOW,
        frame: str = "frame",
        routes: tuple[ChannelRoute, ...] = (ROUTE,),
    ) -> list[Job]:
        fits = [ChannelFit(route, channels, frame) for route in routes]
        seen = self.series.get(uid)
        assert seen is not None
        jobs = self.series.close(seen, "quiet", "routed", [], at, fits)
        assert jobs is not None
        return jobs

    def come(self, uid: SeriesInstanceUID, *channels: int, at: float = NOW) -> list[Job]:
        self.receive(uid)
        return self.close(uid, *channels, at=at)


def _instance(uid: SeriesInstanceUID, number: int, study: str) -> StoredInstance:
    return StoredInstance(
        series_instance_uid=uid,
        study_instance_uid=study,
        sop_instance_uid=SOPInstanceUID(f"{uid}.{number}"),
        sop_class_uid="1.2.840.10008.5.1.4.1.1.4",
        modality="MR",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        sha256="aa",
        size_bytes=10,
        path=f"instances/{uid}/{number}",
        calling_ae_title=AETitle("MODALITY"),
        received_at=NOW,
    )


@pytest.fixture
def store(engine: sqlalchemy.Engine) -> Store:
    return Store(engine)


def test_the_last_channel_starts_the_job_in_the_order_of_the_channels(store: Store) -> None:
    assert store.come(T1, 0) == []
    (job,) = store.come(FLAIR, 1)
    assert (job.series_instance_uids, job.state) == ((T1, FLAIR), JobState.QUEUED)
    assert (job.priority, job.route) == (3, "both")
    assert job.recipients == ("pacs",)
    assert [one.id for one in store.jobs.of_series(FLAIR)] == [job.id]
    assert store.waiting.refuse_due([ROUTE], NOW + 2 * WAIT) == []


def test_the_result_is_the_same_whatever_closes_first(tmp_path: Path) -> None:
    found = set()
    for number, order in enumerate(itertools.permutations([(T1, 0), (FLAIR, 1)])):
        (tmp_path / str(number)).mkdir()
        engine = database.connect(tmp_path / str(number))
        database.migrate(engine)
        store = Store(engine)
        for uid, channel in order:
            store.come(uid, channel)
        (job,) = store.jobs.list()
        found.add((job.series_instance_uids, job.result_uids, job.input_fingerprint))
        engine.dispose()
    assert len(found) == 1


def test_closing_again_makes_no_second_job(store: Store) -> None:
    store.come(T1, 0)
    (job,) = store.come(FLAIR, 1)
    for uid, channel in ((T1, 0), (FLAIR, 1), (T1, 0)):
        assert store.series.reopen(uid, NOW)
        assert store.close(uid, channel) == []
    assert [one.id for one in store.jobs.list()] == [job.id]


def test_a_crash_in_the_middle_of_closing_leaves_nothing_of_it(
    store: Store, engine: sqlalchemy.Engine
) -> None:
    store.come(T1, 0)
    store.receive(FLAIR)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER dies BEFORE INSERT ON job_event BEGIN SELECT RAISE(ABORT, 'power'); END"
        )
    with pytest.raises(sqlalchemy.exc.IntegrityError):
        store.close(FLAIR, 1)
    seen = store.series.get(FLAIR)
    assert seen is not None
    assert (seen.closed_at, store.jobs.list(), store.series.waits(FLAIR)) == (None, [], [])
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER dies")
    (job,) = store.close(FLAIR, 1)
    assert job.series_instance_uids == (T1, FLAIR)


def test_another_study_fills_no_channel(store: Store) -> None:
    store.come(T1, 0)
    store.receive(FLAIR, study="9.9")
    assert store.close(FLAIR, 1) == []


def test_a_missing_channel_is_refused_after_the_wait_and_named(store: Store) -> None:
    store.come(T1, 0)
    assert store.waiting.refuse_due([ROUTE], NOW + WAIT - 1) == []
    (job,) = store.waiting.refuse_due([ROUTE], NOW + WAIT)
    assert job.state is JobState.REJECTED
    assert job.reason == (
        "no Series for channel FLAIR of study 1.2 came within 600 s; it has T1: 1.2.1"
    )
    assert [(e.event, e.to_state) for e in store.jobs.events(job.id)] == [("REFUSE", "REJECTED")]
    assert store.jobs.deliveries(job.id) == []
    assert store.waiting.refuse_due([ROUTE], NOW + 9 * WAIT) == []


def test_a_channel_that_comes_after_the_refusal_starts_a_job_that_supersedes_it(
    store: Store,
) -> None:
    store.come(T1, 0)
    (refused,) = store.waiting.refuse_due([ROUTE], NOW + WAIT)
    (job,) = store.come(FLAIR, 1, at=NOW + 2 * WAIT)
    assert (job.series_instance_uids, job.supersedes) == ((T1, FLAIR), refused.id)


def test_a_refused_job_cannot_be_run_again_but_its_series_can_wait_again(store: Store) -> None:
    store.come(T1, 0)
    (refused,) = store.waiting.refuse_due([ROUTE], NOW + WAIT)
    with pytest.raises(Fatal, match="never had a Series for each channel"):
        store.jobs.rerun(refused.id, JobState.REJECTED, NOW)
    assert store.series.reopen(T1, NOW + 2 * WAIT)
    store.close(T1, 0, at=NOW + 2 * WAIT)
    assert store.waiting.refuse_due([ROUTE], NOW + 3 * WAIT) == []  # it stands refused already
    (job,) = store.come(FLAIR, 1)
    assert job.state is JobState.QUEUED


def test_each_series_that_comes_begins_the_wait_anew_and_a_start_does_so(store: Store) -> None:
    three = ChannelRoute("three", "m", "mo", ("A", "B", "C"), ("pacs",), 0, WAIT, "conditions")
    for number, uid in enumerate((T1, FLAIR)):
        store.receive(uid)
        store.close(uid, number, at=NOW + number * 500, routes=(three,))
    assert store.waiting.refuse_due([three], NOW + WAIT) == []
    assert store.waiting.restart(NOW + 5000) == 2
    assert store.waiting.refuse_due([three], NOW + 5000 + WAIT - 1) == []
    (job,) = store.waiting.refuse_due([three], NOW + 5000 + WAIT)
    assert "no Series for channel C of study" in (job.reason or "")


SWAPPED = replace(ROUTE, channels=("FLAIR", "T1"), conditions="others")


def test_a_series_fills_no_channel_of_a_route_whose_conditions_have_changed(store: Store) -> None:
    store.come(T1, 0)  # T1 of the old route; channel 0 is FLAIR now
    (refused,) = store.waiting.refuse_due([ROUTE], NOW + WAIT)
    store.receive(FLAIR)
    assert store.close(FLAIR, 1, routes=(SWAPPED,)) == []
    (job,) = store.waiting.refuse_due([SWAPPED], NOW + WAIT)
    assert "no Series for channel FLAIR of study" in (job.reason or "")
    assert refused.id != job.id


def test_what_waits_for_a_route_that_has_changed_is_routed_anew(store: Store) -> None:
    store.come(T1, 0)
    assert store.waiting.outdated([ROUTE]) == []
    assert store.waiting.outdated([]) == store.waiting.outdated([SWAPPED]) == [T1]
    assert store.series.reopen(T1, NOW)
    assert store.waiting.outdated([SWAPPED]) == []
    store.close(T1, 1, routes=(SWAPPED,))
    store.receive(FLAIR)
    (job,) = store.close(FLAIR, 0, routes=(SWAPPED,))
    assert job.series_instance_uids == (FLAIR, T1)


def test_after_narrower_conditions_the_series_that_is_not_meant_is_forgotten(store: Store) -> None:
    store.come(FLAIR, 1)
    store.come(FLAIR_2, 1)
    (refused,) = store.come(T1, 0)
    narrower = replace(ROUTE, conditions="narrower")
    for uid, channel in ((T1, 0), (FLAIR, 1)):  # as the refusal says
        assert store.series.reopen(uid, NOW)
        jobs = store.close(uid, channel, routes=(narrower,))
    assert [job.series_instance_uids for job in jobs] == [(T1, FLAIR)]
    assert refused.state is JobState.REJECTED


def test_what_waits_for_a_route_that_is_no_more_is_dropped(store: Store) -> None:
    store.come(T1, 0)
    assert store.waiting.refuse_due([], NOW + WAIT) == []
    assert store.waiting.refuse_due([ROUTE], NOW + WAIT) == []


def test_two_series_for_one_channel_are_refused_at_once_with_both_named(store: Store) -> None:
    store.come(FLAIR, 1)
    store.come(FLAIR_2, 1)
    (job,) = store.come(T1, 0)
    assert job.state is JobState.REJECTED
    assert "several Series of study 1.2 fit FLAIR: 1.2.2, 1.2.3" in (job.reason or "")
    for uid in (T1, FLAIR, FLAIR_2):
        assert [one.id for one in store.jobs.of_series(uid)] == [job.id]


def test_of_very_many_for_one_channel_some_are_named(store: Store) -> None:
    for number in range(10, 30):
        store.come(SeriesInstanceUID(f"1.2.{number}"), 1)
    (job,) = store.come(T1, 0)
    assert "fit FLAIR: 1.2.10, 1.2.11, 1.2.12, 1.2.13, 1.2.14, 1.2.15 and 14 more; make" in (
        job.reason or ""
    )


def test_of_two_the_one_in_the_frame_of_the_others_is_taken_in_any_order(store: Store) -> None:
    for uid, channel, frame in ((FLAIR_2, 1, "elsewhere"), (FLAIR, 1, "frame")):
        store.receive(uid)
        store.close(uid, channel, frame=frame)
    (job,) = store.come(T1, 0)
    assert job.series_instance_uids == (T1, FLAIR)


def test_a_late_slice_in_any_channel_cancels_the_queued_job_and_a_successor_follows(
    store: Store,
) -> None:
    store.come(T1, 0)
    (first,) = store.come(FLAIR, 1)
    store.receive(FLAIR, 2)  # channel 1, late
    cancelled = store.jobs.get(first.id)
    assert cancelled is not None
    assert cancelled.state is JobState.CANCELLED
    assert store.series.waits(FLAIR) == []
    assert store.waiting.refuse_due([ROUTE], NOW + 9 * WAIT) == []
    (second,) = store.close(FLAIR, 1)
    assert (second.series_instance_uids, second.supersedes) == ((T1, FLAIR), first.id)
    assert second.result_uids != first.result_uids


def test_late_slices_in_both_channels_make_one_successor(store: Store) -> None:
    store.come(T1, 0)
    (first,) = store.come(FLAIR, 1)
    store.jobs.transition(first.id, JobState.QUEUED, JobEvent.SEGMENT, NOW)
    store.receive(T1, 2)
    store.receive(FLAIR, 2)
    assert store.close(T1, 0) == []
    (second,) = store.close(FLAIR, 1)
    assert second.supersedes == first.id
    assert len(store.jobs.list()) == 2


def test_two_routes_to_one_model_make_one_job_for_both_peers(store: Store) -> None:
    store.receive(T1)
    store.close(T1, 0, routes=(ROUTE, OTHER))
    store.receive(FLAIR)
    (job,) = store.close(FLAIR, 1, routes=(ROUTE, OTHER))
    assert (job.route, job.priority) == ("both, other", 5)
    assert job.recipients == ("pacs", "viewer")


def test_one_series_that_fits_both_channels_waits_and_is_refused_in_words(store: Store) -> None:
    assert store.come(T1, 0, 1) == []
    (job,) = store.waiting.refuse_due([ROUTE], NOW + WAIT)
    assert "no 2 Series came within 600 s, one for each channel" in (job.reason or "")


# --- a second Route that comes to the same input later


def _fits_other_later(store: Store, *, at: float) -> None:
    """FLAIR is routed anew, and fits a Route that did not stand there before."""
    for uid in (T1, FLAIR):
        store.series.reopen(uid, at)
    store.close(T1, 0, at=at, routes=(ROUTE, OTHER))
    assert store.close(FLAIR, 1, at=at, routes=(ROUTE, OTHER)) == []


def test_the_peers_of_a_route_that_comes_later_get_the_result_of_the_job_too(
    store: Store,
) -> None:
    store.come(T1, 0)
    (job,) = store.come(FLAIR, 1)
    _fits_other_later(store, at=NOW + 1)
    (only,) = store.jobs.list()
    assert (only.id, only.state) == (job.id, JobState.QUEUED)
    assert only.recipients == ("pacs", "viewer")
    _fits_other_later(store, at=NOW + 2)
    assert len(store.jobs.list()[0].recipients) == 2


def test_a_delivered_result_goes_to_the_new_peers_alone(
    store: Store, engine: sqlalchemy.Engine
) -> None:
    store.come(T1, 0)
    (job,) = store.come(FLAIR, 1)
    deliveries = DeliveryStore(engine)
    segmented(store.jobs, job, NOW)
    deliveries.delivered(the_one(deliveries.take("pacs", NOW)), "stored", NOW)
    _fits_other_later(store, at=NOW + 1)
    assert store.jobs.list()[0].state is JobState.SEGMENTED
    giving = GiveLane(RecipientStore(engine), store.jobs, {}, lambda: None)
    assert giving.step() == AT_ONCE
    assert giving.step() == IDLE_SECONDS
    assert deliveries.take("pacs", NOW + 2) is None
    taken = the_one(deliveries.take("viewer", time.time()))
    finished = deliveries.delivered(taken, "stored", NOW + 2)
    assert finished is not None
    assert finished.state is JobState.DELIVERED


def test_a_failed_job_notes_the_new_peers_and_stays_failed(store: Store) -> None:
    store.come(T1, 0)
    (job,) = store.come(FLAIR, 1)
    store.jobs.transition(job.id, JobState.QUEUED, JobEvent.FAIL, NOW, "broken")
    _fits_other_later(store, at=NOW + 1)
    assert store.jobs.list()[0].state is JobState.FAILED
    again = store.jobs.rerun(job.id, JobState.FAILED, NOW + 2)
    assert again.recipients == ("pacs", "viewer")
