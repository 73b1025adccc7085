"""Real SQLite: guarded transitions, counted attempts, what survives, who may open it."""

import multiprocessing
import os
import sqlite3
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import sqlalchemy

from node.core.errors import ConfigError, StaleState
from node.core.job import Job, JobEvent, JobState
from node.core.names import SeriesInstanceUID
from node.core.verdict import Verdict
from node.store import database
from node.store.deliveries import DeliveryStore
from node.store.jobs import JobStore
from node.store.lock import DataFolderLock, running_node
from node.store.series import SeriesStore
from node.store.waiting import WaitingStore
from tests.stored import (
    NOW,
    UID,
    instance_of,
    job_order,
    queued_job,
    seen_series,
    segmented,
    the_one,
)


def test_a_closed_series_and_its_job_are_one_fact(engine: sqlalchemy.Engine) -> None:
    job = queued_job(engine)
    assert job.state is JobState.QUEUED
    assert SeriesStore(engine).open_series() == []
    assert [event.event for event in JobStore(engine).events(job.id)] == ["QUEUE"]


def test_an_instance_that_comes_while_the_series_is_being_closed_keeps_it_open(
    engine: sqlalchemy.Engine,
) -> None:
    series = SeriesStore(engine)
    series.add(instance_of(1), NOW)
    seen = seen_series(engine)
    series.add(instance_of(2), NOW + 1)
    assert series.close(seen, "quiet", "routed", [job_order()], NOW) is None
    assert JobStore(engine).list() == []


def test_a_late_instance_cancels_the_queued_job_and_the_next_one_supersedes_it(
    engine: sqlalchemy.Engine,
) -> None:
    first = queued_job(engine)
    series, jobs = SeriesStore(engine), JobStore(engine)
    series.add(instance_of(2), NOW + 1)
    cancelled = jobs.get(first.id)
    assert cancelled is not None
    assert cancelled.state is JobState.CANCELLED
    seen = seen_series(engine)
    (second,) = series.close(seen, "quiet", "routed", [job_order("in2")], NOW + 2) or []
    assert second.supersedes == first.id


def test_the_same_instance_again_changes_nothing(engine: sqlalchemy.Engine) -> None:
    job = queued_job(engine)
    assert SeriesStore(engine).add(instance_of(1), NOW + 5) == "aa"
    assert SeriesStore(engine).open_series() == []
    current = JobStore(engine).get(job.id)
    assert current is not None
    assert current.state is JobState.QUEUED


def test_the_same_input_never_gets_a_second_job(engine: sqlalchemy.Engine) -> None:
    job = queued_job(engine)
    series = SeriesStore(engine)
    assert series.reopen(UID, NOW)
    seen = seen_series(engine)
    assert series.close(seen, "quiet", "routed", [job_order()], NOW) == []
    assert [one.id for one in JobStore(engine).list()] == [job.id]


def test_an_attempt_is_counted_before_the_work(engine: sqlalchemy.Engine) -> None:
    queued_job(engine)
    jobs = JobStore(engine)
    taken = [jobs.take_queued(NOW) for _ in range(3)]  # as after two crashes
    assert [job.attempts for job in taken if job] == [1, 2, 3]


def test_of_the_due_jobs_the_highest_priority_goes_first_and_a_pause_lets_others_go(
    engine: sqlalchemy.Engine,
) -> None:
    series, jobs = SeriesStore(engine), JobStore(engine)
    for number, priority in enumerate((0, 5, 5, -1)):
        uid = SeriesInstanceUID(f"1.2.{number}")
        series.add(instance_of(1, uid=uid), NOW)
        seen = series.get(uid)
        assert seen is not None
        order = job_order(f"in{number}")
        order = replace(order, series_instance_uids=(uid,), priority=priority)
        assert series.close(seen, "quiet", "routed", [order], NOW + number)
    late = NOW + 10
    first = jobs.take_queued(late)
    assert first is not None
    assert (first.priority, first.series_instance_uids) == (5, ("1.2.1",))
    jobs.retry(first, late + 60, "busy", late)
    taken: list[Job] = []
    for _ in range(3):
        job = jobs.take_queued(late, [one.id for one in taken])
        assert job is not None
        taken.append(job)
    assert [job.priority for job in taken] == [5, 0, -1]


def test_a_transition_from_a_state_that_is_gone_is_refused(engine: sqlalchemy.Engine) -> None:
    job = queued_job(engine)
    jobs = JobStore(engine)
    jobs.transition(job.id, JobState.QUEUED, JobEvent.CANCEL, NOW)
    with pytest.raises(StaleState, match="no longer QUEUED"):
        segmented(jobs, job, NOW)
    assert [event.event for event in jobs.events(job.id)] == ["QUEUE", "CANCEL"]


def test_a_job_is_delivered_when_every_peer_has_it(engine: sqlalchemy.Engine) -> None:
    job = queued_job(engine, ("a", "b"))
    jobs, deliveries = JobStore(engine), DeliveryStore(engine)
    assert deliveries.take("a", NOW) is None  # not segmented yet
    segmented(jobs, job, NOW)
    first, second = deliveries.take("a", NOW), deliveries.take("b", NOW)
    assert first is not None
    assert second is not None
    assert deliveries.delivered(the_one(first), "stored", NOW) is None
    finished = deliveries.delivered(the_one(second), "stored", NOW)
    assert finished is not None
    assert finished.state is JobState.DELIVERED


def test_a_refusing_peer_fails_the_job_once_the_others_have_it(engine: sqlalchemy.Engine) -> None:
    job = queued_job(engine, ("a", "b"))
    jobs, deliveries = JobStore(engine), DeliveryStore(engine)
    segmented(jobs, job, NOW)
    refused, taken = deliveries.take("a", NOW), deliveries.take("b", NOW)
    assert refused is not None
    assert taken is not None
    assert deliveries.failed(the_one(refused), "does not want it", NOW) is None
    finished = deliveries.delivered(the_one(taken), "stored", NOW)
    assert finished is not None
    assert (finished.state, finished.reason) == (JobState.FAILED, "a: does not want it")
    resent = jobs.resend(job.id, JobState.FAILED, NOW)
    assert resent.state is JobState.SEGMENTED
    assert [str(one.state) for one in jobs.deliveries(job.id)] == ["open", "done"]


def test_a_delivery_that_waits_is_not_taken_before_its_time(engine: sqlalchemy.Engine) -> None:
    job = queued_job(engine)
    segmented(JobStore(engine), job, NOW)
    deliveries = DeliveryStore(engine)
    taken = deliveries.take("pacs", NOW)
    assert taken is not None
    deliveries.retry(the_one(taken), NOW + 60, "busy", NOW)
    assert deliveries.take("pacs", NOW + 59) is None
    again = deliveries.take("pacs", NOW + 60)
    assert again is not None
    assert the_one(again).attempts == 2


def test_the_database_is_in_wal_with_foreign_keys_and_full_durability(
    engine: sqlalchemy.Engine,
) -> None:
    with engine.connect() as connection:
        values = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "foreign_keys", "synchronous", "busy_timeout")
        ]
    assert values == ["wal", 1, 2, database.BUSY_TIMEOUT_MS]


def test_the_migrations_make_the_tables_of_the_code(engine: sqlalchemy.Engine) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext

    from node.store.tables import metadata

    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_a_database_of_a_newer_version_is_refused(
    engine: sqlalchemy.Engine, tmp_path: Path
) -> None:
    with sqlite3.connect(tmp_path / database.FILE_NAME) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(ConfigError, match="newer version of segnode"):
        database.migrate(engine)


def _hold(folder: Path, ready: Connection) -> None:
    with DataFolderLock(folder):
        ready.send(os.getpid())
        ready.recv()


def test_a_second_node_on_the_folder_is_refused_with_path_and_process_id(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_hold, args=(tmp_path, theirs))
    process.start()
    pid = ours.recv()
    assert running_node(tmp_path) == pid
    with pytest.raises(ConfigError) as raised, DataFolderLock(tmp_path):
        pass
    assert str(tmp_path) in str(raised.value)
    assert str(pid) in str(raised.value)
    process.kill()
    process.join()
    assert running_node(tmp_path) is None
    with DataFolderLock(tmp_path):  # the lock died with its process
        assert running_node(tmp_path) == os.getpid()


def test_a_peer_that_answers_gets_at_once_what_waits_for_it(engine: sqlalchemy.Engine) -> None:
    job = queued_job(engine, ("a", "b"))
    jobs, deliveries = JobStore(engine), DeliveryStore(engine)
    segmented(jobs, job, NOW)
    for peer in ("a", "b"):
        taken = deliveries.take(peer, NOW)
        assert taken is not None
        deliveries.retry(the_one(taken), NOW + 3600, "down", NOW)
    assert deliveries.take("a", NOW + 1) is None
    jobs.resend(job.id, JobState.SEGMENTED, NOW + 1)
    again = deliveries.take("a", NOW + 1)
    assert again is not None
    deliveries.retry(the_one(again), NOW + 3600, "down", NOW)
    deliveries.hurry(NOW + 2)
    once_more = deliveries.take("a", NOW + 2)
    assert once_more is not None
    assert deliveries.delivered(the_one(once_more), "stored", NOW + 2) is None
    assert deliveries.take("b", NOW + 2) is not None


def test_a_clock_that_is_set_back_holds_up_neither_a_job_nor_a_delivery(
    engine: sqlalchemy.Engine,
) -> None:
    jobs, deliveries, earlier = JobStore(engine), DeliveryStore(engine), NOW - 3600
    job = queued_job(engine)
    taken = jobs.take_queued(earlier)
    assert taken is not None
    jobs.retry(taken, NOW + 60, "no memory", NOW)
    assert jobs.take_queued(NOW) is None
    assert jobs.take_queued(earlier) is not None
    jobs.retry(taken, earlier + 60, "no memory", earlier)
    assert jobs.take_queued(earlier) is None
    segmented(jobs, job, NOW)
    first = deliveries.take("pacs", earlier)
    assert first is not None
    deliveries.retry(the_one(first), earlier + 60, "refused", earlier)
    assert deliveries.take("pacs", earlier) is None
    assert deliveries.take("pacs", earlier - 3600) is not None


def test_a_series_that_is_opened_again_is_judged_from_nothing(engine: sqlalchemy.Engine) -> None:
    series = SeriesStore(engine)
    series.add(instance_of(1), NOW)
    seen = seen_series(engine)
    first, second = (
        replace(job_order(), verdict=Verdict.UNPROVEN),
        replace(job_order(), verdict=Verdict.PROVEN),
    )
    finding = {"evidence": "numbers", "holds": False, "words": "", "missing": []}
    (job,) = series.close(seen, "quiet", "routed", [first], NOW, findings=[finding]) or []
    assert series.reopen(UID, NOW)
    assert list(seen_series(engine).findings) == []
    assert series.close(seen, "quiet", "routed", [second], NOW) is None  # seen before it reopened
    assert series.close(seen_series(engine), "quiet", "routed", [second], NOW) == []
    again = JobStore(engine).get(job.id)
    assert again is not None
    assert again.verdict is Verdict.PROVEN


def test_a_peer_that_says_the_same_again_lets_nothing_be_judged_anew(
    engine: sqlalchemy.Engine,
) -> None:
    series = SeriesStore(engine)
    series.add(instance_of(1), NOW)
    series.add_count(UID, "pacs", {"instances": None, "error": "down"}, NOW)
    seen = seen_series(engine)
    series.add_count(UID, "pacs", {"instances": None, "error": "down"}, NOW + 60)
    assert seen_series(engine) == seen
    series.add_count(UID, "pacs", {"instances": 1, "error": None}, NOW + 61)
    assert seen_series(engine).revision > seen.revision


def test_where_nothing_waits_too_long_nobody_is_kept_from_writing(
    engine: sqlalchemy.Engine, tmp_path: Path
) -> None:
    writer = sqlite3.connect(tmp_path / database.FILE_NAME, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    assert WaitingStore(engine).refuse_due([], NOW) == []
    assert time.monotonic() - began < database.BUSY_TIMEOUT_MS / 2000
    writer.close()
