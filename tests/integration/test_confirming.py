"""A delivery lane and a Peer that has to confirm: at once, in part, never, or in word only."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from pydicom import Dataset
from pydicom.uid import SegmentationStorage
from pynetdicom import evt
from pynetdicom.events import Event
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    StudyRootQueryRetrieveInformationModelFind,
)
from structlog.testing import capture_logs

from node.core.commitment import Reference, Report
from node.core.errors import Fatal
from node.core.job import JobState
from node.core.names import AETitle, SOPInstanceUID
from node.dicom.outbox import Outbox
from node.dicom.results.answer import ResultObject
from node.dicom.scu.peer import Peer
from node.lanes.commit import taking_reports
from node.lanes.confirm import Confirming
from node.lanes.deliver import DeliverLane, InHand, Pauses
from node.store import database
from node.store.deliveries import DeliveryStore
from node.store.jobs import JobStore
from tests.peers import eventually
from tests.results import part_10
from tests.scripted import BOTH, Received, scripted_peer
from tests.stored import queued_job, segmentation_of, segmented

US = AETitle("SEGNODE")
ANSWER_SECONDS = 1.0
UNASKED_SECONDS = 0.5
NOTHING_KEPT, ALL_KEPT = "nothing", "all"


@dataclass
class Archive:
    """What a Peer says of its own: of each request to commit in turn, and when it is asked."""

    keeps: list[str | None]  # by request; the last one again; None: it never reports
    finds: bool = True
    commits: bool = True
    asked: int = 0
    reports: list[threading.Thread] = field(default_factory=list)

    def on_action(self, event: Event) -> tuple[int, None]:
        keeps = self.keeps[min(self.asked, len(self.keeps) - 1)]
        self.asked += 1
        if keeps is not None:
            told = _told(event, failed=1 if keeps == NOTHING_KEPT else 0)
            self.reports.append(threading.Thread(target=_tell, args=(event.assoc, *told)))
            self.reports[-1].start()
        return 0x0000, None

    def on_find(self, event: Event) -> Iterator[tuple[int, Dataset | None]]:
        if self.finds:
            yield 0xFF00, event.identifier
        yield 0x0000, None


def _told(event: Event, failed: int) -> tuple[int, Dataset]:
    """Of a request of several objects the last `failed` are not kept."""
    asked, told = event.action_information, Dataset()
    kept = len(asked.ReferencedSOPSequence) - failed
    told.TransactionUID = asked.TransactionUID
    told.ReferencedSOPSequence = list(asked.ReferencedSOPSequence[:kept])
    if failed:
        told.FailedSOPSequence = list(asked.ReferencedSOPSequence[kept:])
        for item in told.FailedSOPSequence:
            item.FailureReason = 0x0112
    return (2 if failed else 1), told


def _tell(association: Any, event_type: int, told: Dataset) -> None:
    time.sleep(0.2)
    association.send_n_event_report(
        told, event_type, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
    )


@dataclass
class World:
    """One Job of two objects, and the lane to the Peer."""

    jobs: JobStore
    deliveries: DeliveryStore
    lane: DeliverLane
    received: Received
    job_id: Any

    def states(self) -> list[str]:
        return [str(one.state) for one in self.jobs.deliveries(self.job_id)]

    def answers(self) -> list[str | None]:
        return [one.answer for one in self.jobs.deliveries(self.job_id)]

    def until(self, found: Callable[[], object], what: str) -> None:
        def look() -> object:
            self.lane.step()
            return found()

        eventually(look, 40, what)

    def state(self) -> JobState:
        found = self.jobs.get(self.job_id)
        assert found is not None
        return found.state


@contextmanager
def delivering(folder: Path, archive: Archive, asked_at: str = "") -> Iterator[World]:
    """asked_at: the host where the Peer is asked to confirm, in place of its own."""
    accepts = [
        (SegmentationStorage, BOTH),
        (StudyRootQueryRetrieveInformationModelFind, BOTH),
        *([(StorageCommitmentPushModel, BOTH)] if archive.commits else []),
    ]
    handlers = [(evt.EVT_N_ACTION, archive.on_action), (evt.EVT_C_FIND, archive.on_find)]
    engine = database.connect(folder)
    database.migrate(engine)
    with scripted_peer(accepts=accepts, handlers=handlers) as (peer, received):
        try:
            peer = replace(peer, commitment=True)
            asked = replace(peer, host=asked_at or peer.host)
            yield _world(folder, engine, peer, asked, received)
        finally:
            for thread in archive.reports:
                thread.join(5)
            engine.dispose()


def _world(
    folder: Path, engine: sqlalchemy.Engine, peer: Peer, asked: Peer, received: Received
) -> World:
    jobs, deliveries, outbox = JobStore(engine), DeliveryStore(engine), Outbox(folder)
    job = queued_job(engine, (peer.name,))
    first = segmentation_of(job)
    second = replace(first, sop_instance_uid=SOPInstanceUID(f"{first.sop_instance_uid}.2"))
    for ref in (first, second):
        outbox.write(job.id, ResultObject(ref, (part_10(ref),)))
    segmented(jobs, job, time.time(), second)
    confirming = Confirming(deliveries, jobs, asked, US, ANSWER_SECONDS, UNASKED_SECONDS)
    lane = DeliverLane(0, InHand(), deliveries, outbox, peer, US, Pauses(0.1, 0.2), confirming)
    return World(jobs, deliveries, lane, received, job.id)


def test_what_is_confirmed_on_the_same_association_is_done(tmp_path: Path) -> None:
    with delivering(tmp_path, Archive([ALL_KEPT])) as world:
        world.lane.step()
        assert world.states() == ["done", "done"]
        assert world.state() is JobState.DELIVERED
        assert set(world.answers()) == {"stored, 0x0000; confirmed by Storage Commitment"}


def test_what_is_not_kept_is_sent_again_and_the_rest_is_done(tmp_path: Path) -> None:
    archive = Archive([NOTHING_KEPT, ALL_KEPT])
    with delivering(tmp_path, archive) as world:
        world.lane.step()
        assert world.states() == ["done", "open"]
        assert "does not keep it: it does not have it, 0x0112" in str(world.answers()[1])
        assert world.state() is JobState.SEGMENTED
        world.until(lambda: world.state() is JobState.DELIVERED, "the second object, again")
        attempts = [one.attempts for one in world.jobs.deliveries(world.job_id)]
        assert (attempts, archive.asked) == ([1, 2], 2)


def test_where_no_report_comes_the_object_is_looked_for(tmp_path: Path) -> None:
    with delivering(tmp_path, Archive([None])) as world:
        world.lane.step()
        assert world.states() == ["stored", "stored"]
        world.until(lambda: world.states() == ["done", "done"], "the fallback")
        assert set(world.answers()) == {"stored, 0x0000; confirmed: the Peer finds it"}


def test_a_peer_that_knows_no_commitment_has_time_to_index_what_it_stored(tmp_path: Path) -> None:
    archive = Archive([None], commits=False, finds=False)
    with delivering(tmp_path, archive) as world:
        for _ in range(3):
            world.lane.step()
        assert world.states() == ["stored", "stored"]
        archive.finds = True
        world.until(lambda: world.state() is JobState.DELIVERED, "the fallback")
        assert all("confirmed: the Peer finds it" in str(one) for one in world.answers())
        assert {one.attempts for one in world.jobs.deliveries(world.job_id)} == {1}


def test_what_nobody_expects_of_a_question_is_said_and_asked_again(tmp_path: Path) -> None:
    with delivering(tmp_path, Archive([None]), asked_at="x" * 300) as world:  # a UnicodeError
        world.lane.step()
        assert world.states() == ["stored", "stored"]
        assert "label too long" in str(world.answers()[0])
        said = "stored, not confirmed yet: UnicodeError"
        world.until(lambda: said in str(world.answers()[1]), "the question")
        deliveries = world.jobs.deliveries(world.job_id)
        assert all(one.not_before > time.time() + 30 for one in deliveries)


def test_success_in_word_only_is_found_out_and_the_object_sent_again(tmp_path: Path) -> None:
    archive = Archive([None], finds=False)
    with delivering(tmp_path, archive) as world:
        world.lane.step()
        world.until(lambda: world.states() == ["open", "open"], "the discovery")
        assert "answered success and does not find it; it is sent again" in str(world.answers()[0])
        archive.finds = True
        world.until(lambda: world.state() is JobState.DELIVERED, "the second attempt")
        assert {one.attempts for one in world.jobs.deliveries(world.job_id)} == {2}


@pytest.mark.parametrize(
    ("reporting", "title", "warns"),
    [("", "PACS", False), ("", "ARCHIVE", True), ("ARCHIVE", "ARCHIVE", False)],
)
def test_a_report_settles_what_its_title_was_asked_for_and_else_the_log_names_both(
    tmp_path: Path, reporting: str, title: str, warns: bool
) -> None:
    with delivering(tmp_path, Archive([None])) as world:
        world.lane.step()
        sent = world.jobs.deliveries(world.job_id)
        items = [Reference(str(SegmentationStorage), str(one.sop_instance_uid)) for one in sent]
        report = Report(title, str(sent[0].transaction_uid), 1.0, items, [])
        peer = Peer(
            sent[0].peer, AETitle("PACS"), "h", 1, commitment_ae_title=AETitle(reporting) or None
        )
        with capture_logs() as logs:
            taking_reports(world.deliveries, [peer])(report, time.time())
        assert world.states() == (["stored", "stored"] if warns else ["done", "done"])
        said = [one for one in logs if one["log_level"] == "warning"]
        assert [(one["reported_by"], one["peer"], one["awaited_from"]) for one in said] == (
            [("ARCHIVE", peer.name, "PACS")] if warns else []
        )


def test_one_file_that_is_gone_keeps_no_other_object_from_being_sent(tmp_path: Path) -> None:
    with delivering(tmp_path, Archive([ALL_KEPT])) as world:
        first, second = world.jobs.deliveries(world.job_id)
        (path,) = (tmp_path / "results").rglob(f"{first.sop_instance_uid}.dcm")
        path.unlink()
        world.lane.step()
        assert world.states() == ["failed", "done"]
        rerun = f"is gone; run the Job again: segnode jobs rerun {world.job_id}"
        assert world.answers()[0] == f"the result {path} {rerun}"
        with pytest.raises(Fatal, match=rerun):
            Outbox(tmp_path).require(
                world.job_id, [second.sop_instance_uid, first.sop_instance_uid]
            )


def test_a_result_that_is_purged_meanwhile_fails_with_the_reason(tmp_path: Path) -> None:
    with delivering(tmp_path, Archive([ALL_KEPT])) as world:
        for path in (tmp_path / "results").rglob("*.dcm"):
            path.unlink()
        world.lane.step()
        assert world.states() == ["failed", "failed"]
        assert "is gone; run the Job again" in str(world.answers()[0])
