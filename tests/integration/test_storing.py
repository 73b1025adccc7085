"""What becomes of each object that a Peer is sent, and that its bytes arrive as they lie."""

import socket
import subprocess
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
)
from pynetdicom import AE, AllStoragePresentationContexts
from pynetdicom.dsutils import split_dataset
from pynetdicom.events import Event

from node.core.errors import Temporary
from node.core.names import AETitle
from node.dicom.scu.answers import Outcome, Stored
from node.dicom.scu.instance import dicom_files
from node.dicom.scu.peer import Peer
from node.dicom.scu.storage import echo, store
from tests.command import segnode
from tests.peers import StallingProxy, eventually, free_port, tool
from tests.scripted import BOTH, requested_uid, scripted_peer
from tests.series_factory import make_series, write_series

US = AETitle("SEGNODE")
STORED, TEMPORARY, PERMANENT = Outcome.STORED, Outcome.TEMPORARY, Outcome.PERMANENT


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return dicom_files(write_series(make_series(slices=4), tmp_path / "series"))


def _uid(path: Path) -> str:
    return str(dcmread(path).SOPInstanceUID)


def _outcomes(stored: list[Stored]) -> list[Outcome]:
    return [one.outcome for one in stored]


def _data_set(path: Path) -> bytes:
    return path.read_bytes()[split_dataset(path)[1] :]


def _second(files: list[Path], status: int) -> Callable[[Event], Any]:
    """A script: the second object gets a status with a remark, all others 0000."""
    second = _uid(files[1])

    def answer(event: Event) -> Any:
        status_set = Dataset()
        status_set.Status = 0x0000
        if requested_uid(event) == second:
            status_set.Status = status
            status_set.ErrorComment = "because\x07"
        return status_set

    return answer


def test_what_arrives_is_bit_for_bit_what_lies_there(files: list[Path]) -> None:
    # a group length and elements that an encoder would write differently
    for path in files:
        begin = split_dataset(path)[1]
        raw = path.read_bytes()
        odd = b"\x08\x00\x00\x00UL\x04\x00\x01\x02\x03\x04"
        path.write_bytes(raw[:begin] + odd + raw[begin:])
    with scripted_peer() as (peer, received):
        assert _outcomes(store(files, peer, US)) == [STORED] * 4
    assert received.data_sets == {_uid(path): _data_set(path) for path in files}
    assert received.associations == 1
    assert received.proposed == [1]


def test_objects_in_several_transfer_syntaxes_go_over_one_association(tmp_path: Path) -> None:
    one, two = make_series(slices=2)
    two.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    for number, each in enumerate((one, two)):
        each.save_as(
            tmp_path / f"{number}.dcm",
            implicit_vr=number == 1,
            little_endian=True,
            enforce_file_format=True,
        )
    files = dicom_files(tmp_path)
    with scripted_peer() as (peer, received):
        assert _outcomes(store(files, peer, US)) == [STORED] * 2
    assert received.data_sets == {_uid(path): _data_set(path) for path in files}
    assert received.associations == 1


def test_deflated_bytes_arrive_deflated_and_torn_ones_do_not(tmp_path: Path) -> None:
    (one,) = make_series(slices=1)
    one.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    path, torn = tmp_path / "a.dcm", tmp_path / "b.dcm"
    one.save_as(path, enforce_file_format=True)
    torn.write_bytes(path.read_bytes()[:-9])
    accepts = [(MRImageStorage, [DeflatedExplicitVRLittleEndian])]
    with scripted_peer(accepts=accepts) as (peer, received):
        stored = store([path, torn], peer, US)
    assert _outcomes(stored) == [STORED, PERMANENT]
    assert "deflated bytes end early" in stored[1].answer
    (arrived,) = received.data_sets.values()
    assert arrived == _data_set(path)
    assert zlib.decompress(arrived, -15)


def test_a_large_file_is_never_whole_in_memory(tmp_path: Path) -> None:
    (one,) = make_series(slices=1)
    one.PixelData = bytes(60_000_000)
    path = write_series([one], tmp_path / "large") / "0000.dcm"
    peak = 0

    def measure(event: Event) -> int:
        nonlocal peak
        peak = tracemalloc.get_traced_memory()[1]
        return 0x0000

    with scripted_peer(measure, timeout_seconds=30.0) as (peer, received):
        tracemalloc.start()
        try:
            (stored,) = store([path], peer, US)
        finally:
            tracemalloc.stop()
    assert stored.outcome is STORED
    assert len(next(iter(received.data_sets.values()))) > 60_000_000
    # the scripted SCP is in this process and holds it twice; the sender adds a few PDUs
    assert peak < 2.5 * 60_000_000


@pytest.mark.parametrize(
    ("status", "outcome", "sentence"),
    [
        (0x0000, STORED, "stored, 0x0000"),
        (0xB000, STORED, "stored, 0xB000 (because?): some elements were changed"),
        (0xB006, STORED, "stored, 0xB006 (because?): some elements were discarded"),
        (0xB007, STORED, "stored, 0xB007 (because?): it finds that the data set does not"),
        (0x0001, STORED, "stored, 0x0001 (because?): it does not know some optional elements"),
        (0x0107, STORED, "stored, 0x0107 (because?): it remarks on some elements"),
        (0x0116, STORED, "stored, 0x0116 (because?): it finds a value out of range"),
        (0xB123, STORED, "stored, 0xB123 (because?): with a warning; see its log"),
        (0xBFFF, STORED, "stored, 0xBFFF (because?): with a warning; see its log"),
        (0x0111, STORED, "stored, 0x0111 (because?): it had it already"),
        (0xA700, TEMPORARY, "is out of resources: 0xA700 (because?)"),
        (0xA76F, TEMPORARY, "is out of resources: 0xA76F (because?)"),
        (0xA770, STORED, "stored, 0xA770 (because?): it has been told already"),
        (0xA771, PERMANENT, "has rejected this object before; restore it there, then resend"),
        (0xA772, PERMANENT, "does not have what this note rejects"),
        (0xA773, PERMANENT, "has what this note rejects under another SOP Class"),
        (0xA774, STORED, "stored, 0xA774 (because?): it has been told already"),
        (0xA775, PERMANENT, "rules of retention"),
        (0xA778, PERMANENT, "patient"),
        (0xA780, TEMPORARY, "is out of resources: 0xA780 (because?)"),
        (0xA7FF, TEMPORARY, "is out of resources: 0xA7FF (because?)"),
        (0x0110, TEMPORARY, "failed to process it: 0x0110 (because?)"),
        (0xA900, PERMANENT, "does not match its SOP Class; see its log, then resend"),
        (0xC000, PERMANENT, "cannot understand the data set; see its log, then resend"),
        (0x0122, PERMANENT, "does not support the SOP Class; enable it there, then resend"),
        (0x0124, PERMANENT, "does not authorise us; let our AE title store there, then resend"),
        (0xFE00, PERMANENT, "does not say more; see its log, then resend"),
    ],
)
def test_each_answer_has_its_outcome_and_its_sentence_and_keeps_nothing_else_away(
    files: list[Path], status: int, outcome: Outcome, sentence: str
) -> None:
    with scripted_peer(_second(files, status)) as (peer, received):
        stored = store(files, peer, US)
    assert _outcomes(stored) == [STORED, outcome, STORED, STORED]
    assert [one.sop_instance_uid for one in stored] == [_uid(path) for path in files]
    assert sentence in stored[1].answer
    assert f"0x{status:04X}" in stored[1].answer
    assert len(received.data_sets) == 4
    assert received.associations == 1


def test_what_a_peer_does_not_accept_is_named_and_the_others_are_sent(
    files: list[Path], tmp_path: Path
) -> None:
    (ct,) = make_series(slices=1, name="ct")
    ct.SOPClassUID = ct.file_meta.MediaStorageSOPClassUID = CTImageStorage
    other = write_series([ct], tmp_path / "ct") / "0000.dcm"
    with scripted_peer() as (peer, _):
        stored = store([files[0], other, files[1]], peer, US)
    assert _outcomes(stored) == [STORED, PERMANENT, STORED]
    assert stored[1].answer.endswith(
        "does not accept CT Image Storage in Explicit VR Little Endian; "
        "enable it there, then resend"
    )


def test_a_peer_that_accepts_nothing_is_for_a_person(files: list[Path]) -> None:
    accepts = [(CTImageStorage, [ExplicitVRLittleEndian])]
    with scripted_peer(accepts=accepts) as (peer, _):
        stored = store(files, peer, US)
    assert _outcomes(stored) == [PERMANENT] * 4
    assert "accepts none of: MR Image Storage; enable it there" in stored[3].answer


def test_a_permanent_rejection_is_for_a_person(files: list[Path]) -> None:
    with scripted_peer(calling="ANOTHER") as (peer, _):
        stored = store(files, peer, US)
    assert _outcomes(stored) == [PERMANENT] * 4
    assert "rejected the association" in stored[0].answer
    assert stored[0].answer.endswith("let it accept our AE title there, then resend")


def test_a_transient_rejection_is_for_later(files: list[Path]) -> None:
    with scripted_peer(most=1) as (peer, _):
        ae = AE(ae_title="FIRST")
        ae.add_requested_context(MRImageStorage)
        holding = ae.associate(peer.host, peer.port, ae_title=peer.ae_title)
        assert holding.is_established
        stored = store(files, peer, US)
        holding.release()
    assert _outcomes(stored) == [TEMPORARY] * 4
    assert "rejected the association: Local limit exceeded" in stored[0].answer


def test_an_abort_half_way_leaves_the_rest_for_later(files: list[Path]) -> None:
    third = _uid(files[2])

    def answer(event: Event) -> int:
        if requested_uid(event) == third:
            event.assoc.abort()
        return 0x0000

    with scripted_peer(answer) as (peer, received):
        stored = store(files, peer, US)
    assert _outcomes(stored) == [STORED, STORED, TEMPORARY, TEMPORARY]
    assert "broke off" in stored[2].answer
    assert _uid(files[3]) not in received.data_sets


def test_silence_after_an_object_is_for_later(files: list[Path]) -> None:
    def answer(event: Event) -> int:
        time.sleep(2.5)
        return 0x0000

    with scripted_peer(answer, timeout_seconds=1.0) as (peer, _):
        began = time.monotonic()
        stored = store(files, peer, US)
        took = time.monotonic() - began
    assert _outcomes(stored) == [TEMPORARY] * 4
    assert "did not answer within 1 s, or broke off" in stored[0].answer
    assert took < 6


def test_a_peer_that_accepts_a_connection_and_says_nothing_is_for_later(files: list[Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = Peer("pacs", AETitle("PACS"), "127.0.0.1", listener.getsockname()[1], 1.0)
        stored = store(files, peer, US)
    assert _outcomes(stored) == [TEMPORARY] * 4
    assert "did not answer, or broke off the association request" in stored[0].answer


def test_a_peer_that_is_down_is_for_later(files: list[Path]) -> None:
    peer = Peer("pacs", AETitle("PACS"), "127.0.0.1", free_port(), 2.0)
    stored = store(files, peer, US)
    assert _outcomes(stored) == [TEMPORARY] * 4
    assert stored[0].answer.endswith("cannot be reached")


class _Deaf(StallingProxy):
    """Reads no more after 1 MB, and holds the connection."""

    def __init__(self, target_port: int) -> None:
        self._over = threading.Event()
        super().__init__(target_port)

    def close(self) -> None:
        self._over.set()
        super().close()

    def _pump(self, source: socket.socket, sink: socket.socket, limit: int | None) -> None:
        passed = 0
        while passed < 1_000_000 and (data := source.recv(4096)):
            sink.sendall(data)
            passed += len(data)
        self._over.wait(20)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)  # wakes the other direction's thread, too


def test_a_peer_that_stops_reading_is_for_later(tmp_path: Path) -> None:
    (one,) = make_series(slices=1)
    one.PixelData = bytes(20_000_000)
    path = write_series([one], tmp_path / "large") / "0000.dcm"
    with scripted_peer(timeout_seconds=1.5) as (peer, _):
        proxy = _Deaf(peer.port)
        behind = Peer("pacs", peer.ae_title, "127.0.0.1", proxy.port, 1.5)
        began = time.monotonic()
        (stored,) = store([path], behind, US)
        took = time.monotonic() - began
        proxy.close()
    assert stored.outcome is TEMPORARY
    assert "took nothing for 1.5 s" in stored.answer or "broke off" in stored.answer
    assert 1.4 < took < 8


def test_more_kinds_than_an_association_has_contexts_go_over_several(tmp_path: Path) -> None:
    classes = [str(context.abstract_syntax) for context in AllStoragePresentationContexts][:130]
    assert len(classes) == 130
    instances = []
    for number, sop_class in enumerate(classes):
        (one,) = make_series(slices=1, rows=2, columns=2, name=f"kind {number}")
        one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = UID(sop_class)
        instances.append(one)
    files = dicom_files(write_series(instances, tmp_path / "kinds"))
    accepts = [(sop_class, BOTH) for sop_class in classes[:100]]
    with scripted_peer(accepts=accepts, timeout_seconds=20.0) as (peer, received):
        stored = store(files, peer, US)
    assert received.associations == 2
    assert sorted(received.proposed) == [2, 128]
    assert sum(one.outcome is STORED for one in stored) == 100
    assert sum(one.outcome is PERMANENT for one in stored) == 30


def test_files_that_cannot_be_sent_say_why_and_the_others_are_sent(
    files: list[Path], tmp_path: Path
) -> None:
    torn, blank, bare, gone = (tmp_path / name for name in ("torn", "blank", "bare", "gone"))
    torn.write_bytes(files[0].read_bytes()[:-100])
    read = dcmread(files[0])
    read.SOPInstanceUID = ""
    read.save_as(blank)
    bare.write_bytes(_data_set(files[0]))
    with scripted_peer() as (peer, received):
        stored = store([torn, blank, bare, gone, files[3]], peer, US)
    assert _outcomes(stored) == [PERMANENT] * 4 + [STORED]
    assert "is not a whole DICOM file: (7fe0,0010) ends after" in stored[0].answer
    assert stored[0].sop_instance_uid == _uid(files[0])
    assert "has no SOP Instance UID" in stored[1].answer
    assert "has no DICOM file header (PS3.10)" in stored[2].answer
    assert "cannot be read: No such file" in stored[3].answer
    assert list(received.data_sets) == [_uid(files[3])]


def test_the_command_names_what_it_cannot_send_sends_the_rest_and_exits_with_1(
    files: list[Path], tmp_path: Path
) -> None:
    folder = files[0].parent
    files[1].write_bytes(files[1].read_bytes()[:-100])
    (folder / "notes.txt").write_text("not DICOM")
    with scripted_peer() as (peer, received):
        config = tmp_path / "node.toml"
        config.write_text(
            f'[peers.pacs]\nae_title = "PACS"\nhost = "127.0.0.1"\nport = {peer.port}\n'
        )
        done = segnode("send", folder, "pacs", "-c", config)
    assert done.returncode == 1
    assert "3 of 4 instances → pacs (PACS at 127.0.0.1" in done.stdout
    assert f"{files[1]}: the file is not a whole DICOM file: (7fe0,0010) ends" in done.stdout
    assert "3 of 4 instances were stored" in done.stderr
    assert _uid(files[1]) not in received.data_sets


def test_the_command_is_content_where_all_were_stored(files: list[Path], tmp_path: Path) -> None:
    with scripted_peer() as (peer, _):
        config = tmp_path / "node.toml"
        config.write_text(
            f'[peers.pacs]\nae_title = "PACS"\nhost = "127.0.0.1"\nport = {peer.port}\n'
        )
        done = segnode("send", files[0].parent, "pacs", "-c", config)
    assert done.returncode == 0
    assert "4 instances → pacs (PACS at 127.0.0.1" in done.stdout


def test_files_of_every_encoding_arrive_at_another_toolkit_as_they_lie(
    tmp_path: Path, shared_data: Path
) -> None:
    files = dicom_files(shared_data / "dicom")[::61]
    with _storescp(tmp_path / "arrived") as peer:
        echo(peer, US)
        stored = store(files, peer, US)
    answers = {path: one.answer for path, one in zip(files, stored, strict=True)}
    assert set(answers.values()) == {"stored, 0x0000"}, answers
    arrived = {_uid(path): _data_set(path) for path in (tmp_path / "arrived").iterdir()}
    assert arrived == {_uid(path): _data_set(path) for path in files}


@contextmanager
def _storescp(folder: Path) -> Iterator[Peer]:
    """DCMTK's, which writes data sets as they come."""
    folder.mkdir()
    port = free_port()
    command = [tool("storescp"), "-aet", "STORESCP", "+B", "+xa", "-od", str(folder), str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peer = Peer("storescp", AETitle("STORESCP"), "127.0.0.1", port, 20.0)
    try:
        eventually(lambda: _answers(peer), 20, "answer from storescp")
        yield peer
    finally:
        process.terminate()
        process.wait(10)


def _answers(peer: Peer) -> bool:
    try:
        echo(peer, US)
    except Temporary:
        return False
    return True
