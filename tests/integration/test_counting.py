"""C-FIND at a real Orthanc: what it counts, what is missing here, and what is proof."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import SecondaryCaptureImageStorage
from pynetdicom import AE, evt
from pynetdicom.events import Event
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # built at import
    StudyRootQueryRetrieveInformationModelFind,
)

from node.core.names import AETitle
from node.core.verdict import Verdict
from node.dicom.closing.evidence import Count, count_from
from node.dicom.closing.times import Times
from node.dicom.scu.peer import Peer
from node.dicom.scu.query import querying
from node.lanes.count import CountLane
from node.lanes.pace import Pace
from node.store import database
from tests import arrivals
from tests.peers import Orthanc, free_port, storescu
from tests.series_factory import make_series, write_series
from tests.ward import Ward

OURS = AETitle("SEGNODE")


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    running = Orthanc(tmp_path_factory.mktemp("orthanc"))
    running.start()
    yield running
    running.stop()


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    engine = database.connect(tmp_path)
    database.migrate(engine)
    yield Ward(tmp_path, engine)
    engine.dispose()


def _peer(port: int) -> Peer:
    return Peer("pacs", AETitle("ORTHANC"), "127.0.0.1", port, 5.0)


def _held_there(pacs: Orthanc, folder: Path, name: str, slices: int = 20) -> list[Dataset]:
    series = make_series(slices=slices, name=name)
    sent = storescu(write_series(series, folder / name), pacs.dicom_port, called="ORTHANC")
    assert sent.returncode == 0, sent.stderr
    return series


def _lane(ward: Ward, port: int) -> CountLane:
    pace = Pace(1000.0)
    return CountLane(ward.series, _peer(port), OURS, Times(0.2, 0.5), lambda: None, pace)


def _counted(ward: Ward, series: list[Dataset]) -> Count:
    return count_from(ward.of(series).counts["pacs"])


def test_a_pacs_says_how_many_and_which(pacs: Orthanc, tmp_path: Path) -> None:
    series = _held_there(pacs, tmp_path, "which")
    study, uid = str(series[0].StudyInstanceUID), str(series[0].SeriesInstanceUID)
    with querying(_peer(pacs.dicom_port), OURS) as query:
        assert query.count(study, uid) == 20
        assert query.count(study, "1.2.3.4") == 0
        found = query.instances(study, uid)
    assert [one.number for one in found] == list(range(1, 21))
    assert {one.sop_instance_uid for one in found} == {str(one.SOPInstanceUID) for one in series}


def test_a_number_said_ahead_and_reached_is_proof_once_it_rests(
    pacs: Orthanc, ward: Ward, tmp_path: Path
) -> None:
    series = _held_there(pacs, tmp_path, "ahead")
    lane = _lane(ward, pacs.dicom_port)
    association = arrivals.keep(ward.inbox, series[:3], None)
    ward.recording.step()
    lane.step()
    assert _counted(ward, series).ahead == 17
    arrivals.keep(ward.inbox, series[3:], "released", association)
    ward.recording.step()
    lane.step()
    assert _counted(ward, series).instances == _counted(ward, series).held == 20
    assert not _counted(ward, series).compared
    time.sleep(0.25)
    lane.step()
    assert _counted(ward, series).compared
    ward.step()
    assert ward.of(series).verdict is Verdict.PROVEN
    assert len(ward.jobs_of(series)) == 1


def test_what_is_missing_is_named_and_holds_the_series(
    pacs: Orthanc, ward: Ward, tmp_path: Path
) -> None:
    series = _held_there(pacs, tmp_path, "missing")
    arrivals.keep(ward.inbox, series[:18])
    ward.recording.step()
    _lane(ward, pacs.dicom_port).step()
    count = _counted(ward, series)
    assert (count.instances, count.held, count.missing_count) == (20, 18, 2)
    assert count.missing[0] == f"InstanceNumber 19 ({series[18].SOPInstanceUID})"
    ward.step(0.8)  # longer than the quiet period
    assert ward.of(series).closed_at is None
    assert "pacs counts 20 and 18 are here" in str(ward.of(series).evidence)


def test_a_pacs_that_does_not_know_the_series_says_nothing_about_it(
    pacs: Orthanc, ward: Ward
) -> None:
    series = make_series(name="unknown there")
    arrivals.keep(ward.inbox, series)
    ward.recording.step()
    _lane(ward, pacs.dicom_port).step()
    ward.step(0.4)
    assert ward.of(series).verdict is Verdict.CONSISTENT


def test_a_pacs_that_is_away_is_noted_and_blocks_nothing(ward: Ward) -> None:
    series = make_series(name="away")
    arrivals.keep(ward.inbox, series)
    ward.recording.step()
    lane = _lane(ward, free_port())
    lane.step()
    assert "cannot be reached" in str(_counted(ward, series).error)
    assert lane.step() > 0  # it pauses before it asks again
    ward.step(0.8)
    assert ward.of(series).verdict is Verdict.CONSISTENT


def test_a_pacs_that_grows_is_not_proof_until_it_rests(
    pacs: Orthanc, ward: Ward, tmp_path: Path
) -> None:
    series = make_series(slices=40, name="growing")
    folder = write_series(series[:20], tmp_path / "first")
    assert storescu(folder, pacs.dicom_port, called="ORTHANC").returncode == 0
    lane = _lane(ward, pacs.dicom_port)
    association = arrivals.keep(ward.inbox, series[:2], None)
    ward.recording.step()
    lane.step()
    folder = write_series(series[20:], tmp_path / "second")
    assert storescu(folder, pacs.dicom_port, called="ORTHANC").returncode == 0
    arrivals.keep(ward.inbox, series[2:], "released", association)
    ward.recording.step()
    lane.step()
    count = _counted(ward, series)
    assert (count.instances, count.grew) == (40, True)
    seen = ward.of(series)
    assert seen.closed_at is None
    time.sleep(0.6)
    lane.step()
    assert _counted(ward, series).stable_seconds >= 0.5
    ward.step()
    assert ward.of(series).verdict is Verdict.PROVEN


def test_an_aborted_part_and_the_rest_are_proven_by_a_pacs_that_holds_the_same(
    pacs: Orthanc, ward: Ward, tmp_path: Path
) -> None:
    series = _held_there(pacs, tmp_path, "aborted then the rest")
    arrivals.keep(ward.inbox, series[:12], "aborted")
    arrivals.keep(ward.inbox, series[12:])
    lane = _lane(ward, pacs.dicom_port)
    ward.recording.step()
    for _ in range(3):
        lane.step()
        time.sleep(0.3)
    lane.step()
    ward.step()
    assert ward.of(series).verdict is Verdict.PROVEN


def test_what_belongs_in_no_volume_is_not_missing_here(
    pacs: Orthanc, ward: Ward, tmp_path: Path
) -> None:
    series = make_series(name="with a note")
    note = make_series(slices=21, name="with a note")[20]
    note.SOPClassUID = note.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    folder = write_series([*series, note], tmp_path / "note")
    assert storescu(folder, pacs.dicom_port, called="ORTHANC").returncode == 0
    arrivals.keep(ward.inbox, series)
    ward.recording.step()
    _lane(ward, pacs.dicom_port).step()
    count = _counted(ward, series)
    assert (count.instances, count.held, count.left_out, count.missing_count) == (21, 20, 1, 0)


@contextmanager
def _peer_that_notes_when_it_is_asked() -> Iterator[tuple[int, list[float]]]:
    asked: list[float] = []

    def answer(_event: Event) -> Iterator[tuple[int, None]]:
        asked.append(time.monotonic())
        yield 0x0000, None

    ae = AE(ae_title="ORTHANC")
    ae.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
    port = free_port()
    handlers: list[Any] = [(evt.EVT_C_FIND, answer)]
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
    assert server is not None
    try:
        yield port, asked
    finally:
        server.shutdown()


def test_many_open_series_do_not_flood_a_pacs_with_questions(ward: Ward) -> None:
    for number in range(25):
        arrivals.keep(ward.inbox, make_series(slices=2, name=f"flood {number}"), None)
    ward.recording.step()
    with _peer_that_notes_when_it_is_asked() as (port, asked):
        lane = CountLane(ward.series, _peer(port), OURS, Times(0.2, 0.5), lambda: None, Pace(10.0))
        until = time.monotonic() + 3.0
        while time.monotonic() < until:
            time.sleep(min(lane.step(), 0.05))
    assert len(asked) > 5
    for first in asked:
        assert sum(first <= at < first + 1.0 for at in asked) <= 11
