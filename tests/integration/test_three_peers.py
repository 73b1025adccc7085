"""200 results to three Peers over real sockets: one dead, one slow, one that refuses."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from pydicom.uid import ExplicitVRLittleEndian, SegmentationStorage
from pynetdicom import AE, evt
from pynetdicom.events import Event

from node.core.job import Job, JobState
from node.core.names import AETitle, SeriesInstanceUID, SOPInstanceUID
from node.core.uids import derive_uid, result_uids
from node.dicom.outbox import Outbox
from node.dicom.results.answer import ResultObject
from node.dicom.scu.peer import Peer
from node.lanes.deliver import DeliverLane, InHand, Pauses
from node.store import database
from node.store.deliveries import DeliveryStore
from node.store.jobs import JobStore
from node.store.orders import JobOrder
from node.store.series import SeriesStore, StoredInstance
from tests.peers import eventually, free_port
from tests.results import part_10
from tests.stored import segmentation_of, segmented

RESULTS = 200
SLOW_SECONDS = 0.02
AE_TITLE = AETitle("SEGNODE")


@dataclass
class Archive:
    """A Storage SCP on a port of its own, with one answer to all."""

    status: int = 0x0000
    seconds: float = 0.0
    port: int = field(default_factory=free_port)
    came: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def running(self) -> Iterator[None]:
        ae = AE(ae_title="ARCHIVE")
        ae.add_supported_context(SegmentationStorage)
        server = ae.start_server(
            ("127.0.0.1", self.port), block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)]
        )
        assert server is not None
        try:
            yield
        finally:
            server.shutdown()

    def _store(self, event: Event) -> int:
        time.sleep(self.seconds)
        request: Any = event.request
        self.came[str(request.AffectedSOPInstanceUID)] += 1
        return self.status


class Results:
    """200 Jobs that are SEGMENTED, each with one small file for the three Peers."""

    def __init__(self, folder: Path, engine: sqlalchemy.Engine) -> None:
        self.jobs, self.deliveries = JobStore(engine), DeliveryStore(engine)
        self.outbox = Outbox(folder)
        series = SeriesStore(engine)
        for number in range(RESULTS):
            self._make(series, number)

    def _make(self, series: SeriesStore, number: int) -> None:
        uid, now = SeriesInstanceUID(derive_uid("series", str(number))), time.time()
        series.add(_instance(uid, now), now)
        seen = series.get(uid)
        assert seen is not None
        fingerprint = f"{number:064d}"
        peers = ("dead", "refusing", "slow")
        uids = result_uids(fingerprint, "m")
        order = JobOrder((uid,), "route", "m", "m", fingerprint, uids, peers)
        (job,) = series.close(seen, "", "", [order], now) or []
        ref = segmentation_of(job)
        self.outbox.write(job.id, ResultObject(ref, (part_10(ref),)))
        segmented(self.jobs, job, now)

    def all(self) -> list[Job]:
        return self.jobs.list(limit=RESULTS + 1)

    def states(self, peer: str) -> Counter[tuple[str, int]]:
        """State and attempts of the Deliveries to a Peer."""
        found = self.jobs.deliveries_of([job.id for job in self.all()])
        return Counter(
            (str(one.state), one.attempts)
            for deliveries in found.values()
            for one in deliveries
            if one.peer == peer
        )


def _instance(uid: SeriesInstanceUID, now: float) -> StoredInstance:
    return StoredInstance(
        series_instance_uid=uid,
        study_instance_uid="1.2",
        sop_instance_uid=SOPInstanceUID(f"{uid[:60]}.1"),
        sop_class_uid="1.2.840.10008.5.1.4.1.1.4",
        modality="MR",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        sha256="aa",
        size_bytes=10,
        path="instances/1",
        calling_ae_title=AETitle("MODALITY"),
        received_at=now,
    )


@pytest.fixture
def results(tmp_path: Path) -> Iterator[Results]:
    engine = database.connect(tmp_path)
    database.migrate(engine)
    yield Results(tmp_path, engine)
    engine.dispose()


@contextmanager
def delivering(results: Results, archives: dict[str, Archive]) -> Iterator[None]:
    lanes = [
        DeliverLane(
            0,
            InHand(),
            results.deliveries,
            results.outbox,
            Peer(name, AETitle("ARCHIVE"), "127.0.0.1", archive.port, 5.0),
            AE_TITLE,
            Pauses(0.5, 1.0),
            None,
        )
        for name, archive in archives.items()
    ]
    for lane in lanes:
        lane.start()
    try:
        yield
    finally:
        for lane in lanes:
            lane.request_stop()
        for lane in lanes:
            lane.join(20)


def test_no_peer_keeps_another_from_its_results_and_none_is_lost(results: Results) -> None:
    archives = {
        "dead": Archive(),
        "slow": Archive(seconds=SLOW_SECONDS),
        "refusing": Archive(status=0xA900),
    }
    with ExitStack() as running:
        running.enter_context(archives["slow"].running())
        running.enter_context(archives["refusing"].running())
        with delivering(results, archives):
            eventually(lambda: len(archives["slow"].came) == RESULTS, 120, "every result")
            eventually(
                lambda: results.states("refusing") == {("failed", 1): RESULTS}, 120, "every refusal"
            )
            assert {job.state for job in results.all()} == {JobState.SEGMENTED}
            assert all(state == "open" for state, _ in results.states("dead"))
            running.enter_context(archives["dead"].running())
            eventually(lambda: len(archives["dead"].came) == RESULTS, 120, "what waited for it")
            eventually(
                lambda: {job.state for job in results.all()} == {JobState.FAILED}, 60, "the end"
            )
    assert results.states("slow") == {("done", 1): RESULTS}
    for archive in archives.values():
        assert set(archive.came.values()) == {1}
    reasons = {job.reason for job in results.all()}
    assert len(reasons) == 1
    assert "0xA900" in str(reasons.pop())


def test_a_peer_of_several_associations_gets_each_result_once(results: Results) -> None:
    archive, in_hand = Archive(seconds=SLOW_SECONDS), InHand()
    peer = Peer("slow", AETitle("ARCHIVE"), "127.0.0.1", archive.port, 5.0, max_associations=3)
    lanes = [
        DeliverLane(
            number, in_hand, results.deliveries, results.outbox, peer, AE_TITLE, Pauses(1, 1), None
        )
        for number in range(peer.max_associations)
    ]
    with archive.running():
        threads = [threading.Thread(target=_drain, args=(lane,)) for lane in lanes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    assert len(archive.came) == RESULTS
    assert set(archive.came.values()) == {1}
    assert results.states("slow") == {("done", 1): RESULTS}


def _drain(lane: DeliverLane) -> None:
    while lane.step() == 0:
        pass
