"""Storage Commitment: what a Peer promises to keep, and what we do where it promises nothing."""

import json
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import MRImageStorage
from pynetdicom import AE, evt
from pynetdicom.events import Event
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    StudyRootQueryRetrieveInformationModelFind,
)

from node.core.errors import Fatal, Temporary
from node.core.names import AETitle, SeriesInstanceUID, SOPInstanceUID
from node.core.result import ObjectRef, ResultKind
from node.core.uids import derive_uid
from node.dicom.scu.commitment import NotSupported, Report, ask, report, report_of
from node.dicom.scu.instance import dicom_files
from node.dicom.scu.peer import Peer
from node.dicom.scu.query import holds
from node.dicom.scu.storage import store
from tests.peers import Orthanc, eventually, free_port
from tests.scripted import BOTH, scripted_peer
from tests.series_factory import make_series, write_series

US = AETitle("SEGNODE")
TRANSACTION = derive_uid("a transaction")


def _refs(count: int) -> list[ObjectRef]:
    return [_ref(f"object {number}") for number in range(count)]


def _ref(name: str) -> ObjectRef:
    return ObjectRef(
        ResultKind.SEGMENTATION,
        "",
        MRImageStorage,
        SeriesInstanceUID(derive_uid("series")),
        SOPInstanceUID(derive_uid(name)),
    )


def _information(event: Event, failed: int = 0) -> tuple[int, Dataset]:
    """An Event Type and what it says of the objects of a request: the last ones failed."""
    asked = event.action_information
    told = Dataset()
    told.TransactionUID = asked.TransactionUID
    kept = len(asked.ReferencedSOPSequence) - failed
    told.ReferencedSOPSequence = list(asked.ReferencedSOPSequence[:kept])
    if failed:
        told.FailedSOPSequence = list(asked.ReferencedSOPSequence[kept:])
        for item in told.FailedSOPSequence:
            item.FailureReason = 0x0112
    return (2 if failed else 1), told


@contextmanager
def _committing(
    status: int = 0x0000, tell: Callable[[Event], tuple[int, Dataset]] | None = None
) -> Iterator[tuple[Peer, list[int]]]:
    """A Peer that answers an N-ACTION, and reports on the same Association."""
    answers: list[int] = []

    def on_action(event: Event) -> tuple[int, None]:
        if tell is not None:
            told = tell(event)
            threading.Thread(target=_tell, args=(event.assoc, *told, answers)).start()
        return status, None

    with scripted_peer(
        accepts=[(StorageCommitmentPushModel, BOTH)],
        handlers=[(evt.EVT_N_ACTION, on_action)],
        timeout_seconds=3.0,
    ) as (peer, _):
        yield peer, answers


def _tell(association: Any, event_type: int, told: Dataset, answers: list[int]) -> None:
    time.sleep(0.3)
    status, _ = association.send_n_event_report(
        told, event_type, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
    )
    answers.append(int(status.get("Status", 0xFFFF)))


def test_all_is_committed_on_the_same_association() -> None:
    refs = _refs(3)
    with _committing(tell=_information) as (peer, answers):
        told = ask(peer, US, TRANSACTION, refs, 5.0)
        eventually(lambda: answers, 5, "answer to the report")
    assert told == Report(TRANSACTION, frozenset(r.sop_instance_uid for r in refs), {})
    assert answers == [0x0000]


def test_a_report_that_comes_before_the_answer_to_the_request_is_taken() -> None:
    refs = _refs(2)
    answers: list[int] = []

    def on_action(event: Event) -> tuple[int, None]:
        _tell(event.assoc, *_information(event), answers)
        return 0x0000, None

    with scripted_peer(
        accepts=[(StorageCommitmentPushModel, BOTH)],
        handlers=[(evt.EVT_N_ACTION, on_action)],
        timeout_seconds=3.0,
    ) as (peer, _):
        told = ask(peer, US, TRANSACTION, refs, 1.0)
    assert told is not None
    assert told.committed == {r.sop_instance_uid for r in refs}
    assert answers == [0x0000]


def test_a_partial_failure_names_the_objects_and_why() -> None:
    refs = _refs(3)
    with _committing(tell=lambda event: _information(event, failed=1)) as (peer, _):
        told = ask(peer, US, TRANSACTION, refs, 5.0)
    assert told is not None
    assert told.committed == {r.sop_instance_uid for r in refs[:2]}
    assert told.failed == {refs[2].sop_instance_uid: "it does not have it, 0x0112"}


def test_no_report_within_the_time_is_none_and_takes_no_longer() -> None:
    with _committing() as (peer, _):
        began = time.monotonic()
        assert ask(peer, US, TRANSACTION, _refs(1), 1.0) is None
        assert time.monotonic() - began < 4


def test_a_report_of_another_transaction_is_not_taken_for_ours() -> None:
    def tell(event: Event) -> tuple[int, Dataset]:
        event_type, told = _information(event)
        told.TransactionUID = derive_uid("another")
        return event_type, told

    with _committing(tell=tell) as (peer, answers):
        assert ask(peer, US, TRANSACTION, _refs(1), 1.0) is None
        eventually(lambda: answers, 5, "answer to the report")
    assert answers == [0x0110]


def test_a_request_that_was_made_before_a_crash_is_still_waited_for() -> None:
    with _committing(0x0131) as (peer, _):
        assert ask(peer, US, TRANSACTION, _refs(1), 0.2) is None


@pytest.mark.parametrize("status", [0x0112, 0x0118, 0x0122, 0x0124, 0x0211])
def test_a_refusal_says_that_commitment_is_not_supported(status: int) -> None:
    with _committing(status) as (peer, _), pytest.raises(NotSupported, match=f"0x{status:04X}"):
        ask(peer, US, TRANSACTION, _refs(1), 1.0)


@pytest.mark.parametrize("status", [0x0110, 0x0213])
def test_a_peer_that_cannot_now_is_for_later(status: int) -> None:
    with _committing(status) as (peer, _), pytest.raises(Temporary, match=f"0x{status:04X}"):
        ask(peer, US, TRANSACTION, _refs(1), 1.0)


def test_a_peer_that_does_not_accept_the_sop_class_does_not_support_it() -> None:
    with (
        scripted_peer() as (peer, _),
        pytest.raises(NotSupported, match="accepts none of: Storage Commitment Push Model"),
    ):
        ask(peer, US, TRANSACTION, _refs(1), 1.0)


def test_a_peer_that_is_down_is_for_later() -> None:
    peer = Peer("pacs", AETitle("PACS"), "127.0.0.1", free_port(), 1.0)
    with pytest.raises(Temporary, match="cannot be reached"):
        ask(peer, US, TRANSACTION, _refs(1), 1.0)


def test_a_peer_that_does_not_answer_the_request_is_for_later() -> None:
    def on_action(event: Event) -> tuple[int, None]:
        time.sleep(2.5)
        return 0x0000, None

    with (
        scripted_peer(
            accepts=[(StorageCommitmentPushModel, BOTH)],
            handlers=[(evt.EVT_N_ACTION, on_action)],
            timeout_seconds=1.0,
        ) as (peer, _),
        pytest.raises(Temporary, match="did not answer within 1 s"),
    ):
        ask(peer, US, TRANSACTION, _refs(1), 1.0)


def test_a_report_that_says_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="without a Transaction UID"):
        report_of(Dataset())


@dataclass
class _Asker:
    """Somebody who asked us for commitment, and gets our report."""

    port: int
    told: list[tuple[int | None, Dataset]] = field(default_factory=list)
    roles: list[tuple[bool | None, bool | None]] = field(default_factory=list)


@contextmanager
def _asker(status: int = 0x0000) -> Iterator[tuple[Peer, _Asker]]:
    def on_report(event: Event) -> tuple[int, None]:
        asker.told.append((event.event_type, event.event_information))
        (context,) = event.assoc.accepted_contexts
        asker.roles.append((context.as_scu, context.as_scp))
        return status, None

    ae = AE(ae_title="MODALITY")
    ae.add_supported_context(StorageCommitmentPushModel, scu_role=False, scp_role=True)
    server = ae.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, on_report)]
    )
    assert server is not None
    asker = _Asker(int(server.server_address[1]))
    try:
        yield Peer("modality", AETitle("MODALITY"), "127.0.0.1", asker.port, 3.0), asker
    finally:
        server.shutdown()


def test_whoever_asked_us_is_told_what_we_keep_and_what_we_do_not() -> None:
    refs = _refs(2)
    with _asker() as (peer, asker):
        report(peer, US, TRANSACTION, refs[:1], [(refs[1], 0x0112)])
    ((event_type, information),) = asker.told
    assert event_type == 2
    assert report_of(information) == Report(
        TRANSACTION,
        frozenset({refs[0].sop_instance_uid}),
        {refs[1].sop_instance_uid: "it does not have it, 0x0112"},
    )
    assert asker.roles == [(True, False)]  # they are the SCU though we asked (PS3.7 D.3.3.4)


def test_all_that_we_keep_is_told_as_a_success() -> None:
    with _asker() as (peer, asker):
        report(peer, US, TRANSACTION, _refs(2), [])
    ((event_type, information),) = asker.told
    assert event_type == 1
    assert "FailedSOPSequence" not in information


@pytest.mark.parametrize(("status", "error"), [(0x0110, Temporary), (0x0117, Fatal)])
def test_a_report_that_is_not_taken_says_so(status: int, error: type[Exception]) -> None:
    with _asker(status) as (peer, _), pytest.raises(error, match=f"0x{status:04X}"):
        report(peer, US, TRANSACTION, _refs(1), [])


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[tuple[Orthanc, Peer, int]]:
    """It reports to us, at our port, on an Association of its own."""
    ours = free_port()
    known = {"us": {"AET": US, "Host": "127.0.0.1", "Port": ours, "AllowStorageCommitment": True}}
    pacs = Orthanc(tmp_path / "orthanc", modalities=known)
    pacs.start()
    try:
        yield pacs, Peer("pacs", AETitle("ORTHANC"), "127.0.0.1", pacs.dicom_port, 10.0), ours
    finally:
        pacs.stop()


def _stored(folder: Path, peer: Peer) -> list[ObjectRef]:
    files = dicom_files(write_series(make_series(slices=2), folder))
    store(files, peer, US)
    return [
        ObjectRef(
            ResultKind.SEGMENTATION,
            "",
            read.SOPClassUID,
            SeriesInstanceUID(read.SeriesInstanceUID),
            SOPInstanceUID(read.SOPInstanceUID),
        )
        for read in map(dcmread, files)
    ]


def test_orthanc_commits_to_what_it_has_and_not_to_what_it_has_not(
    tmp_path: Path, orthanc: tuple[Orthanc, Peer, int]
) -> None:
    _, peer, port = orthanc
    refs = _stored(tmp_path / "series", peer)
    missing = _ref("nobody has it")
    told: list[Report] = []

    def on_report(event: Event) -> tuple[int, None]:
        told.append(report_of(event.event_information))
        return 0x0000, None

    ae = AE(ae_title=US)
    ae.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
    server = ae.start_server(
        ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, on_report)]
    )
    assert server is not None
    try:
        ours = [*refs, missing]
        on_the_spot = ask(peer, US, TRANSACTION, ours, 0.5)
        if on_the_spot is not None:
            told.append(on_the_spot)
        eventually(lambda: told, 20, "report of Orthanc")
    finally:
        server.shutdown()
    assert told[0].transaction_uid == TRANSACTION
    assert told[0].committed == {r.sop_instance_uid for r in refs}
    assert list(told[0].failed) == [missing.sop_instance_uid]
    assert "0x0112" in told[0].failed[missing.sop_instance_uid]


def test_orthanc_takes_our_report_where_it_asked_us(
    tmp_path: Path, orthanc: tuple[Orthanc, Peer, int]
) -> None:
    pacs, peer, port = orthanc
    refs = _stored(tmp_path / "series", peer)
    asked: list[Dataset] = []

    def on_action(event: Event) -> tuple[int, None]:
        asked.append(event.action_information)
        return 0x0000, None

    ae = AE(ae_title=US)
    ae.add_supported_context(StorageCommitmentPushModel)
    server = ae.start_server(
        ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_N_ACTION, on_action)]
    )
    assert server is not None
    url = f"http://127.0.0.1:{pacs.http_port}"
    try:
        body = json.dumps(
            {"DicomInstances": [[r.sop_class_uid, r.sop_instance_uid] for r in refs]}
        ).encode()
        with urllib.request.urlopen(f"{url}/modalities/us/storage-commitment", body) as answer:
            path = json.loads(answer.read())["Path"]
        eventually(lambda: asked, 10, "request of Orthanc")
        report(peer, US, asked[0].TransactionUID, refs[:1], [(refs[1], 0x0112)])
    finally:
        server.shutdown()
    with urllib.request.urlopen(url + path) as answer:
        told = json.loads(answer.read())
    assert [one["SOPInstanceUID"] for one in told["Success"]] == [refs[0].sop_instance_uid]
    assert [one["SOPInstanceUID"] for one in told["Failures"]] == [refs[1].sop_instance_uid]


def test_where_nobody_commits_the_peer_is_asked_whether_it_holds_the_object(
    tmp_path: Path, orthanc: tuple[Orthanc, Peer, int]
) -> None:
    _, peer, _ = orthanc
    refs = _stored(tmp_path / "series", peer)
    study = derive_uid("series", "study")
    assert holds(peer, US, study, refs[0])
    assert not holds(peer, US, study, _ref("nobody has it"))
    assert not holds(peer, US, derive_uid("no study"), refs[0])


@pytest.mark.parametrize(
    ("status", "error"),
    [(0xA700, Temporary), (0xC001, Temporary), (0x0122, Fatal), (0x0124, Fatal), (0xA900, Fatal)],
)
def test_a_peer_that_may_not_be_asked_what_it_holds_is_for_a_person(
    status: int, error: type[Exception]
) -> None:
    def on_find(event: Event) -> Iterator[tuple[int, None]]:
        yield status, None

    with (
        scripted_peer(
            accepts=[(StudyRootQueryRetrieveInformationModelFind, BOTH)],
            handlers=[(evt.EVT_C_FIND, on_find)],
        ) as (peer, _),
        pytest.raises(error, match=f"refused a C-FIND with 0x{status:04X}"),
    ):
        holds(peer, US, derive_uid("study"), _ref("object"))
