"""We commit to what we hold (PS3.4 J.3): a real receiver, the lanes, Orthanc, scripted peers."""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from pydicom import Dataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
)
from pynetdicom import AE, evt
from structlog.testing import capture_logs

from node.core.commitment import SOP_CLASS, SOP_INSTANCE, Asked, Reference, Report
from node.core.names import AETitle
from node.dicom.inbox import Inbox
from node.dicom.scu.commitment import report
from node.dicom.scu.peer import Peer
from node.lanes.commit import GIVE_UP_SECONDS, CommitmentLane
from node.lanes.record import RecordLane
from node.recording import Commitment
from node.store import database
from node.store.commitments import CommitmentStore
from node.store.series import SeriesStore
from tests import arrivals
from tests.peers import Orthanc, eventually, free_port, storescu
from tests.receiving import Receiving, receiving
from tests.series_factory import make_series, write_series

OURS = AETitle("SEGNODE")
MR = str(MRImageStorage)
_numbers = iter(range(1, 1000))


@dataclass
class World:
    """A data folder and what its lanes need. reports: what was taken in."""

    inbox: Inbox
    series: SeriesStore
    commitments: CommitmentStore
    engine: sqlalchemy.Engine
    reports: list[Report] = field(default_factory=list)
    on_report: Callable[[Report], object] = lambda _: None

    def __post_init__(self) -> None:
        def take(told: Report, _: float) -> None:
            self.on_report(told)
            self.reports.append(told)

        commitment = Commitment(self.commitments.add_all, take)
        self.recording = RecordLane(self.inbox, self.series, lambda: None, commitment)

    def lane(self, peer: Peer) -> CommitmentLane:
        return CommitmentLane(
            self.commitments, self.inbox, self.recording, peer, OURS, report, 0.05, 1.0
        )

    def answer(self, peer: Peer) -> None:
        """Each request that is due, once."""
        lane = self.lane(peer)
        self.recording.step()
        lane.step()
        self.recording.step()
        lane.step()

    def rows(self) -> list[Any]:
        with self.engine.connect() as connection:
            query = "SELECT * FROM commitment_asked ORDER BY id"
            return list(connection.execute(sqlalchemy.text(query)))

    def ask(self, *items: Reference, transaction: str = "1.2.3", at: float | None = None) -> None:
        """As the receiver leaves it."""
        asked = Asked("MODALITY", transaction, at or time.time(), items)
        self.put(asked.to_json(), "asked")

    def put(self, text: str, suffix: str) -> Path:
        name = f"{time.time_ns():020d}-test.1-{next(_numbers):08d}.{suffix}"
        path = self.inbox.incoming_folder / name
        path.write_text(text)
        return path


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    folder = tmp_path / "var"
    inbox = Inbox(folder)
    engine = database.connect(folder)
    database.migrate(engine)
    yield World(inbox, SeriesStore(engine), CommitmentStore(engine), engine)
    engine.dispose()


@dataclass
class Told:
    """What an N-EVENT-REPORT said."""

    transaction: str
    event_type: int
    committed: list[str]
    failed: dict[str, int]


@contextmanager
def _modality(status: int = 0x0000) -> Iterator[tuple[Peer, list[Told]]]:
    """A peer that hears what became of its request."""
    heard: list[Told] = []

    def on_report(event: evt.Event) -> tuple[int, None]:
        told = event.event_information
        heard.append(
            Told(
                str(told.TransactionUID),
                event.event_type or 0,
                [one.ReferencedSOPInstanceUID for one in told.get("ReferencedSOPSequence") or ()],
                {
                    one.ReferencedSOPInstanceUID: one.FailureReason
                    for one in told.get("FailedSOPSequence") or ()
                },
            )
        )
        return status, None

    ae = AE(ae_title="MODALITY")
    syntaxes = [ImplicitVRLittleEndian, ExplicitVRLittleEndian]
    ae.add_supported_context(SOP_CLASS, syntaxes, scu_role=True, scp_role=True)
    handlers: Any = [(evt.EVT_N_EVENT_REPORT, on_report)]
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    assert server is not None
    try:
        port = server.server_address[1]
        yield Peer("modality", AETitle("MODALITY"), "127.0.0.1", port, timeout_seconds=5), heard
    finally:
        server.shutdown()


def _ask(port: int, items: Sequence[tuple[str, str]], send: Sequence[Dataset] = ()) -> None:
    """A modality stores, and asks at once for commitment."""
    told = Dataset()
    told.TransactionUID = "1.2.3"
    told.ReferencedSOPSequence = []
    for sop_class, uid in items:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
        told.ReferencedSOPSequence.append(item)
    ae = AE(ae_title="MODALITY")
    ae.add_requested_context(MR, ExplicitVRLittleEndian)
    ae.add_requested_context(SOP_CLASS)
    opened = ae.associate("127.0.0.1", port, ae_title="SEGNODE")
    assert {opened.send_c_store(one).Status for one in send} <= {0x0000}
    answer, _ = opened.send_n_action(told, 1, SOP_CLASS, SOP_INSTANCE)
    assert answer.Status == 0x0000
    opened.release()


def _refs(series: Sequence[Dataset], sop_class: str = MR) -> list[Reference]:
    return [Reference(sop_class, str(one.SOPInstanceUID)) for one in series]


@pytest.fixture
def here(world: World, tmp_path: Path) -> Iterator[Receiving]:
    with receiving(tmp_path / "var", commits_to=["MODALITY", "ORTHANC"]) as one:
        yield one


def test_what_was_stored_just_before_is_committed_to_and_nothing_else(
    world: World, here: Receiving
) -> None:
    series = make_series(slices=30)
    uids = [str(one.SOPInstanceUID) for one in series]
    items = [(MR, uid) for uid in uids[1:]]
    items += [(CTImageStorage, uids[0]), (MR, "1.2.3.4.5")]
    with _modality() as (peer, heard):
        _ask(here.port, items, series)
        world.answer(peer)
    (told,) = heard
    assert (told.transaction, told.event_type) == ("1.2.3", 2)
    assert told.committed == uids[1:]
    assert told.failed == {uids[0]: 0x0119, "1.2.3.4.5": 0x0112}
    (row,) = world.rows()
    assert row.done_at is not None
    assert row.answer == "committed to 29 Instances, not to 2"


def test_a_request_amid_the_flow_never_overtakes_its_instances(
    world: World, here: Receiving
) -> None:
    """Rows come before the files have their places, and the lane runs beside that."""
    with _modality() as (peer, heard):
        lanes = [world.recording, world.lane(peer)]
        for lane in lanes:
            lane.start()
        try:
            for number in range(8):
                series = make_series(slices=40, name=f"flow.{number}")
                _ask(here.port, [(MR, str(one.SOPInstanceUID)) for one in series], series)
                for lane in lanes:
                    lane.wake()
                eventually(lambda n=number: len(heard) > n, 20, "answer")  # type: ignore[misc]
        finally:
            for lane in lanes:
                lane.request_stop()
            for lane in lanes:
                lane.join(10)
    assert [len(told.committed) for told in heard] == [40] * 8
    assert [told.event_type for told in heard] == [1] * 8


def test_what_was_deleted_is_not_committed_to(world: World) -> None:
    series = make_series(slices=3)
    arrivals.keep(world.inbox, series)
    world.recording.step()
    uid = series[0].SeriesInstanceUID
    gone, purged, _ = (str(one.SOPInstanceUID) for one in series)
    (world.inbox.folder(uid) / f"i{gone}.dcm").unlink()
    with world.engine.begin() as connection:
        statement = "UPDATE instance SET path = '' WHERE sop_instance_uid = :uid"
        connection.execute(sqlalchemy.text(statement), {"uid": purged})
    world.ask(*_refs(series))
    world.recording.step()
    with _modality() as (peer, heard):
        world.answer(peer)
    assert heard[0].failed == {gone: 0x0112, purged: 0x0112}


def test_an_instance_that_cannot_be_recorded_yet_lets_the_answer_wait(world: World) -> None:
    series = make_series(slices=1)
    arrivals.keep(world.inbox, series)
    (path,) = world.inbox.incoming()
    raw = path.read_bytes()
    path.unlink()
    path.mkdir()  # cannot be read, even by root
    world.ask(*_refs(series))
    world.recording.step()
    with _modality() as (peer, heard):
        world.answer(peer)
        assert heard == []
        assert "cannot be recorded yet" in world.rows()[0].answer
        path.rmdir()
        path.write_bytes(raw)
        world.recording._again.clear()
        world.recording.step()
        time.sleep(0.1)
        world.answer(peer)
    assert heard[0].event_type == 1


def test_a_peer_that_is_away_is_told_later(world: World) -> None:
    series = make_series(slices=2)
    arrivals.keep(world.inbox, series)
    world.ask(*_refs(series))
    world.recording.step()
    away = Peer("modality", AETitle("MODALITY"), "127.0.0.1", free_port(), timeout_seconds=2)
    world.answer(away)
    (row,) = world.rows()
    assert (row.attempts, row.done_at) == (1, None)
    time.sleep(0.1)
    with _modality() as (peer, heard):
        world.answer(peer)
    assert len(heard[0].committed) == 2
    assert world.rows()[0].done_at is not None


def test_after_a_day_it_is_given_up_and_the_log_says_so(world: World) -> None:
    world.ask(Reference(MR, "1.2.3.4"), at=time.time() - GIVE_UP_SECONDS - 1)
    world.recording.step()
    away = Peer("modality", AETitle("MODALITY"), "127.0.0.1", free_port(), timeout_seconds=2)
    with capture_logs() as logs:
        world.answer(away)
    assert world.rows()[0].done_at is not None
    assert [one["event"] for one in logs] == ["commitment cannot be answered"]


def test_requests_of_a_title_that_no_peer_has_are_given_up(world: World) -> None:
    world.ask(Reference(MR, "1.2.3.4"))
    world.recording.step()
    assert world.commitments.abandon(["MODALITY"], time.time()) == []
    assert world.commitments.abandon(["PACS"], time.time()) == ["MODALITY"]
    assert "no peer" in world.rows()[0].answer


def test_a_crash_between_row_and_file_asks_once(world: World) -> None:
    world.ask(Reference(MR, "1.2.3.4"))
    (path,) = world.inbox.arrived()
    raw = path.read_bytes()
    world.recording.step()
    path.write_bytes(raw)  # here a process would have died before it removed the file
    world.recording.step()
    assert len(world.rows()) == 1
    assert world.inbox.arrived() == []


@pytest.mark.parametrize("suffix", ["asked", "commit"])
@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"transaction_uid": "x"}'])
def test_a_file_that_the_disk_has_cut_goes_aside_with_the_reason(
    world: World, suffix: str, text: str
) -> None:
    path = world.put(text, suffix)
    series = make_series(slices=2)
    arrivals.keep(world.inbox, series)
    world.recording.step()
    assert world.inbox.arrived() == []
    aside = path.parent.parent / "aside" / path.name
    assert aside.read_text() == text
    assert "does not tell" in aside.with_suffix(".txt").read_text()
    assert len(world.series.instances(series[0].SeriesInstanceUID)) == 2
    assert world.rows() == []


def test_a_report_is_taken_in_once_the_rows_before_it_are_safe(world: World) -> None:
    told = Report("PACS", "1.2.3", 1.0, [Reference(MR, "1.1")], [Reference(MR, "1.2", 0x0112)])
    series = make_series(slices=1)
    arrivals.keep(world.inbox, series)
    world.put(told.to_json(), "commit")
    held: list[int] = []
    uid = series[0].SeriesInstanceUID
    world.on_report = lambda _: held.append(len(world.series.instances(uid)))
    world.recording.step()
    (taken,) = world.reports
    assert (list(taken.committed), list(taken.failed)) == (told.committed, told.failed)
    assert held == [1]
    assert world.inbox.arrived() == []


def test_a_report_that_cannot_be_taken_in_keeps_nothing_else_and_is_tried_again(
    world: World,
) -> None:
    def fail(_: Report) -> None:
        raise RuntimeError("a bug")

    told = Report("PACS", "1.2.3", 1.0, [Reference(MR, "1.1")], [])
    path = world.put(told.to_json(), "commit")
    series = make_series(slices=2)
    arrivals.keep(world.inbox, series)
    world.on_report = fail
    world.recording.step()
    assert world.inbox.arrived() == [path]
    assert len(world.series.instances(series[0].SeriesInstanceUID)) == 2
    world.on_report = lambda _: None
    world.recording._again.clear()
    world.recording.step()
    assert len(world.reports) == 1
    assert world.inbox.arrived() == []


def test_answered_requests_are_forgotten_after_a_while(world: World) -> None:
    world.ask(Reference(MR, "1.2.3.4"))
    world.recording.step()
    waiting = world.commitments.due("MODALITY", time.time())
    assert waiting is not None
    world.commitments.settle(waiting, "done", time.time() - 31 * 86400)
    world.ask(Reference(MR, "1.2.3.4"), transaction="1.2.4")
    world.recording.step()
    assert [row.transaction_uid for row in world.rows()] == ["1.2.4"]


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    running = Orthanc(tmp_path_factory.mktemp("orthanc"))
    running.start()
    yield running
    running.stop()


def test_orthanc_asks_us_and_hears_of_each_instance(
    world: World, here: Receiving, orthanc: Orthanc, tmp_path: Path
) -> None:
    series = make_series(slices=3)
    folder = write_series(series, tmp_path / "series")
    assert storescu(folder, orthanc.dicom_port, called="ORTHANC").returncode == 0
    orthanc.knows("segnode", "SEGNODE", here.port)
    orthanc.send("POST", "/modalities/segnode/store", orthanc.get("/instances")[:2])
    wanted = [[MR, str(one.SOPInstanceUID)] for one in series]
    asked = orthanc.send(
        "POST", "/modalities/segnode/storage-commitment", {"DicomInstances": wanted}
    )
    world.recording.step()
    peer = Peer("orthanc", AETitle("ORTHANC"), "127.0.0.1", orthanc.dicom_port, timeout_seconds=10)
    world.answer(peer)
    told = orthanc.get(asked["Path"])
    assert told["Status"] == "Failure"
    assert len(told["Success"]) == 2
    (failure,) = told["Failures"]
    assert failure["FailureReason"] == 0x0112
    assert failure["SOPInstanceUID"] in {uid for _, uid in wanted}


def test_orthanc_reports_to_us_what_it_holds(
    world: World, here: Receiving, orthanc: Orthanc, tmp_path: Path
) -> None:
    series = make_series(slices=2, name="ours")
    folder = write_series(series, tmp_path / "series")
    assert storescu(folder, orthanc.dicom_port, called="ORTHANC").returncode == 0
    orthanc.knows("segnode", "SEGNODE", here.port)
    held = [(MR, str(one.SOPInstanceUID)) for one in series]
    told = Dataset()
    told.TransactionUID = "1.2.3.99"
    told.ReferencedSOPSequence = []
    for sop_class, uid in [*held, (MR, "1.2.3.4.5")]:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
        told.ReferencedSOPSequence.append(item)
    ae = AE(ae_title="SEGNODE")
    ae.add_requested_context(SOP_CLASS)
    opened = ae.associate("127.0.0.1", orthanc.dicom_port, ae_title="ORTHANC")
    answer, _ = opened.send_n_action(told, 1, SOP_CLASS, SOP_INSTANCE)
    assert answer.Status == 0x0000
    opened.release()
    eventually(lambda: list((here.folder / "incoming").glob("*.commit")), 20, "report of Orthanc")
    world.recording.step()
    (taken,) = world.reports
    assert (taken.calling_ae_title, taken.transaction_uid) == ("ORTHANC", "1.2.3.99")
    assert [one.sop_instance_uid for one in taken.committed] == [uid for _, uid in held]
    assert [one.value() for one in taken.failed] == [[MR, "1.2.3.4.5", 0x0112]]


def test_a_silent_peer_keeps_no_other_waiting(world: World) -> None:
    """Each Peer has a lane of its own."""
    with socket.create_server(("127.0.0.1", 0)) as silent, _modality() as (peer, heard):
        port = silent.getsockname()[1]
        slow = world.lane(Peer("slow", AETitle("SLOW"), "127.0.0.1", port, timeout_seconds=3))
        world.put(Asked("SLOW", "1.2.9", time.time(), [Reference(MR, "1.1")]).to_json(), "asked")
        world.ask(Reference(MR, "1.1"))
        world.recording.step()
        slow.step()
        world.recording.step()
        thread = threading.Thread(target=slow.step, daemon=True)
        thread.start()
        world.answer(peer)
        assert thread.is_alive()
        assert heard[0].failed == {"1.1": 0x0112}
        thread.join(10)
