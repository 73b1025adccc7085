"""Storage Commitment at the receiver (PS3.4 J.3): on disk what is asked or told, then 0x0000."""

import json
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE, build_role
from pynetdicom.association import Association
from pynetdicom.dsutils import encode

from node.configured.receiving import receiver_settings
from node.core import config
from node.core.commitment import SOP_CLASS, SOP_INSTANCE
from node.dicom.receiver import commitment
from tests.receiving import RawPeer, Receiving, p_data, pdv, receiving
from tests.series_factory import make_series

STORE, COMMITMENT = 1, 5  # presentation contexts of a RawPeer


def _item(uid: str, reason: int | None = None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = MRImageStorage, uid
    if reason is not None:
        item.FailureReason = reason
    return item


def _told(transaction: str | None = "1.2.3", **items: list[Dataset]) -> Dataset:
    told = Dataset()
    if transaction is not None:
        told.TransactionUID = transaction
    if "referenced" in items:
        told.ReferencedSOPSequence = items["referenced"]
    if "failed" in items:
        told.FailedSOPSequence = items["failed"]
    return told


@contextmanager
def _committing(
    port: int, calling: str = "MODALITY", *, as_scp: bool = False, syntax: str = ""
) -> Iterator[Association]:
    ae = AE(ae_title=calling)
    ae.add_requested_context(SOP_CLASS, syntax or ImplicitVRLittleEndian)
    ae.add_requested_context(MRImageStorage, ExplicitVRLittleEndian)
    roles = [build_role(SOP_CLASS, scu_role=False, scp_role=True)] if as_scp else []
    opened = ae.associate("127.0.0.1", port, ae_title="SEGNODE", ext_neg=roles)  # type: ignore[arg-type]
    assert opened.is_established
    try:
        yield opened
    finally:
        if opened.is_established:
            opened.release()


def _ask(one: Association, told: Dataset, action: int = 1, instance: str = SOP_INSTANCE) -> int:
    answer, _ = one.send_n_action(told, action, SOP_CLASS, instance)
    return int(answer.Status)


def _report(one: Association, told: Dataset, event: int = 1) -> int:
    answer, _ = one.send_n_event_report(told, event, SOP_CLASS, SOP_INSTANCE)
    return int(answer.Status)


def _files(here: Receiving, suffix: str) -> list[Path]:
    return sorted((here.folder / "incoming").glob(f"*.{suffix}"))


def _only(here: Receiving, suffix: str) -> Any:
    (path,) = _files(here, suffix)
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiving]:
    folder = tmp_path_factory.mktemp("var")
    with receiving(folder, commits_to=["MODALITY"], echo_only=["VIEWER"]) as one:
        yield one


@pytest.fixture
def here(running: Receiving) -> Iterator[Receiving]:
    """One receiver for all; each test finds incoming/ empty."""
    yield running
    running.wait_for_threads(6)
    for path in (running.folder / "incoming").iterdir():
        path.unlink()


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_a_request_lies_behind_the_instances_acknowledged_before_it(
    here: Receiving, syntax: str
) -> None:
    series = make_series(slices=3)
    with _committing(here.port, syntax=syntax) as one:
        for instance in series:
            assert one.send_c_store(instance).Status == 0x0000
        uids = [str(instance.SOPInstanceUID) for instance in series]
        assert _ask(one, _told("1.2.3", referenced=[_item(uid) for uid in uids])) == 0x0000
        names = [path.name for path in sorted((here.folder / "incoming").iterdir())]
    asked = _only(here, "asked")
    assert [name.rpartition(".")[2] for name in names] == ["dcm"] * 3 + ["asked"]
    assert (asked["calling_ae_title"], asked["transaction_uid"]) == ("MODALITY", "1.2.3")
    assert asked["items"] == [[MRImageStorage, uid] for uid in uids]


def test_a_report_from_a_peer_that_is_the_scp_is_kept(here: Receiving) -> None:
    with _committing(here.port, "PACS", as_scp=True) as one:
        told = _told(
            "1.2.3", referenced=[_item("1.1"), _item("1.2")], failed=[_item("1.3", 0x0112)]
        )
        assert _report(one, told, event=2) == 0x0000
    report = _only(here, "commit")
    assert (report["calling_ae_title"], report["transaction_uid"]) == ("PACS", "1.2.3")
    assert report["committed"] == [[MRImageStorage, "1.1"], [MRImageStorage, "1.2"]]
    assert report["failed"] == [[MRImageStorage, "1.3", 0x0112]]


def test_a_report_without_role_selection_is_kept_too(here: Receiving) -> None:
    with _committing(here.port, "PACS") as one:
        assert _report(one, _told("1.2.3", referenced=[_item("1.1")])) == 0x0000
    assert _only(here, "commit")["failed"] == []


def test_an_instance_that_is_told_both_ways_is_failed(here: Receiving) -> None:
    with _committing(here.port, as_scp=True) as one:
        told = _told("1.2.3", referenced=[_item("1.1")], failed=[_item("1.1", 0x0110)])
        assert _report(one, told, event=2) == 0x0000
    assert _only(here, "commit")["committed"] == []


def test_associations_of_commitment_alone_leave_no_end(here: Receiving) -> None:
    with _committing(here.port, as_scp=True) as one:
        assert _report(one, _told("1.2.3", referenced=[_item("1.1")])) == 0x0000
    here.wait_for_threads(6)
    assert here.endings() == []


@pytest.mark.parametrize(
    ("transaction", "items"),
    [
        (None, [_item("1.1")]),
        ("../../etc/passwd", [_item("1.1")]),
        ("1." * 32 + "1", [_item("1.1")]),
        ("1.2.3", None),
        ("1.2.3", []),
        ("1.2.3", [Dataset()]),
        ("1.2.3", [_item("")]),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_message_that_says_too_little_is_refused_and_the_next_is_taken(
    here: Receiving, transaction: str | None, items: list[Dataset] | None
) -> None:
    told = _told(transaction) if items is None else _told(transaction, referenced=items)
    with _committing(here.port) as one:
        assert _ask(one, told) == 0x0115
        assert _report(one, told) == 0x0115
        assert _files(here, "*") == []
        assert _ask(one, _told("1.2.3", referenced=[_item("1.1")])) == 0x0000


def test_actions_and_events_that_there_are_not_are_refused(here: Receiving) -> None:
    told = _told("1.2.3", referenced=[_item("1.1")])
    with _committing(here.port) as one:
        assert _ask(one, told, action=2) == 0x0123
        assert _ask(one, told, instance="1.2.3.4") == 0x0112
        assert _report(one, told, event=3) == 0x0113


def test_only_peers_that_may_store_may_ask(here: Receiving) -> None:
    told = _told("1.2.3", referenced=[_item("1.1")])
    for calling in ("VIEWER", "NOBODY"):
        with _committing(here.port, calling) as one:
            assert _ask(one, told) == 0x0124
            assert _report(one, told) == 0x0000
    assert _files(here, "asked") == []


def test_a_full_disk_is_a_resource_limitation(tmp_path: Path) -> None:
    with (
        receiving(tmp_path, commits_to=["MODALITY"], min_free_bytes=1 << 60) as here,
        _committing(here.port) as one,
    ):
        assert _ask(one, _told("1.2.3", referenced=[_item("1.1")])) == 0x0213


def test_a_folder_that_cannot_be_written_is_a_processing_failure(tmp_path: Path) -> None:
    with receiving(tmp_path, commits_to=["MODALITY"]) as here, _committing(here.port) as one:
        (here.folder / "incoming").rename(here.folder / "away")
        (here.folder / "incoming").write_text("not a folder")
        assert _ask(one, _told("1.2.3", referenced=[_item("1.1")])) == 0x0110


def test_many_instances_are_taken_and_too_many_are_not(here: Receiving) -> None:
    many = [_item(f"1.2.{number}") for number in range(5000)]
    with _committing(here.port) as one:
        assert _ask(one, _told("1.2.3", referenced=many)) == 0x0000
        before = here.resident_mb()
        tiny = [Dataset()] * (commitment.MOST_ITEMS + 1)
        assert _ask(one, _told("1.2.4", referenced=tiny)) == 0x0213
        long = [_item("1." + "2" * 60)] * (commitment.MOST_BYTES // 120)
        assert _ask(one, _told("1.2.5", referenced=long)) == 0x0213
        assert here.resident_mb() < before + 60
    assert len(_only(here, "asked")["items"]) == 5000


def _raw_command(field: int, data_set: bool = True) -> bytes:
    def element(number: int, value: bytes) -> bytes:
        value += b"\0" * (len(value) % 2)
        return struct.pack("<HHL", 0, number, len(value)) + value

    def us(number: int, value: int) -> bytes:
        return element(number, struct.pack("<H", value))

    action = field == 0x0130
    uids = (0x0003, 0x1001, 0x1008) if action else (0x0002, 0x1000, 0x1002)
    body = (
        element(uids[0], SOP_CLASS.encode())
        + us(0x0100, field)
        + us(0x0110, 7)
        + us(0x0800, 1 if data_set else 0x0101)
        + element(uids[1], SOP_INSTANCE.encode())
        + us(uids[2], 1)
    )
    return element(0, struct.pack("<L", len(body))) + body


@pytest.mark.parametrize("field", [0x0100, 0x0130])
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 1000,
        struct.pack("<HHL", 0x0008, 0x1199, 0xFFFFFFFF),  # a sequence that never ends
        struct.pack("<HHL", 0x0008, 0x1199, 0xFFFFFFF0),
        struct.pack("<HHLHHL", 0x0008, 0x1199, 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF) * 3000,
        struct.pack("<HHL", 0x0008, 0x1195, 4) + b"\xff\xfe\0\0",
        struct.pack("<HHL", 0x0008, 0x1195, 2) + b"1/",
    ],
)
def test_hostile_bytes_are_refused_and_the_association_goes_on(
    here: Receiving, field: int, data: bytes
) -> None:
    with RawPeer(here.port) as peer:
        peer.associate(MRImageStorage, SOP_CLASS)
        for _ in range(2):
            peer.send(p_data(pdv(COMMITMENT, _raw_command(field), command=True, last=True)))
            size = 60_000
            for offset in range(0, len(data) or 1, size):
                last = offset + size >= len(data)
                value = data[offset : offset + size]
                peer.send(p_data(pdv(COMMITMENT, value, command=False, last=last)))
            assert peer.status() in (0x0110, 0x0115)
        peer.release()
    assert list((here.folder / "incoming").iterdir()) == []


@pytest.mark.parametrize("field", [0x0100, 0x0130])
def test_a_request_without_a_data_set_is_refused(here: Receiving, field: int) -> None:
    with RawPeer(here.port) as peer:
        peer.associate(MRImageStorage, SOP_CLASS)
        command = _raw_command(field, data_set=False)
        peer.send(p_data(pdv(COMMITMENT, command, command=True, last=True)))
        assert peer.status() == 0x0114
        peer.release()


def test_a_flood_of_reports_is_answered_one_by_one(here: Receiving) -> None:
    """pynetdicom would start a thread for each."""
    data = encode(_told("1.2.3", referenced=[_item("1.1")]), False, True)
    assert data is not None
    message = p_data(pdv(COMMITMENT, _raw_command(0x0100), command=True, last=True)) + p_data(
        pdv(COMMITMENT, data, command=False, last=True)
    )
    with RawPeer(here.port) as peer:
        peer.associate(MRImageStorage, SOP_CLASS)
        sending = threading.Thread(target=peer.send, args=(message * 200,), daemon=True)
        sending.start()
        most = 0
        for _ in range(200):
            assert peer.status() == 0x0000
            most = max(most, here.threads())
        assert most < 10
    assert len(_files(here, "commit")) == 200


def test_an_abort_amid_a_request_leaves_nothing(here: Receiving) -> None:
    with RawPeer(here.port) as peer:
        peer.associate(MRImageStorage, SOP_CLASS)
        peer.send(p_data(pdv(COMMITMENT, _raw_command(0x0130), command=True, last=True)))
        peer.send(p_data(pdv(COMMITMENT, b"\x08\0", command=False, last=False)))
        peer.abort()
    here.wait_for_threads(6)
    assert list((here.folder / "incoming").iterdir()) == []


@pytest.mark.parametrize("field", [0x0100, 0x0130])
def test_on_the_context_of_another_class_it_is_refused_and_starts_no_thread(
    here: Receiving, field: int
) -> None:
    message = p_data(pdv(STORE, _raw_command(field), command=True, last=True)) + p_data(
        pdv(STORE, b"", command=False, last=True)
    )
    with RawPeer(here.port) as peer:
        peer.associate(MRImageStorage, SOP_CLASS)
        peer.send(message * 50)
        assert {peer.status() for _ in range(50)} == {0x0118}
        assert here.threads() < 10
        peer.release()


def test_who_reports_under_another_title_is_let_in_for_that_alone(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text(
        '[peers.pacs]\nae_title = "PACS"\nhost = "h"\nport = 104\n'
        'commitment = true\ncommitment_ae_title = "ARCHIVE"\n'
    )
    told = receiver_settings(config.load(path))
    (instance,) = make_series(slices=1)
    with receiving(tmp_path, accept_from=told.accept_from, echo_only=told.echo_only) as here:
        with _committing(here.port, "ARCHIVE", as_scp=True) as one:
            assert _report(one, _told("1.2.3", referenced=[_item("1.1")])) == 0x0000
            assert one.send_c_store(instance).Status == 0x0124
        with _committing(here.port, "PACS") as one:
            assert one.send_c_store(instance).Status == 0x0000
        assert _only(here, "commit")["calling_ae_title"] == "ARCHIVE"
