"""The upper layer under peers that split, mix, abort, stall and lie (PS3.8)."""

import contextlib
import json
import os
import select
import signal
import socket
import struct
import threading
import time
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import MRImageStorage

from node.core.errors import ConfigError
from node.dicom.inbox import Inbox, data_set_offset
from node.dicom.receiver.supervisor import Receiver
from tests.large import send_large
from tests.peers import eventually, storescu
from tests.receiving import (
    ABORT,
    ASSOCIATE_RJ,
    ECHO,
    STORE,
    RawPeer,
    Receiving,
    associate_rq,
    association,
    echo_command,
    encoded,
    p_data,
    pdv,
    receiving,
    settings,
    store_command,
    store_message,
)
from tests.series_factory import make_series, write_series


def _ending(here: Receiving) -> str:
    (end,) = here.wait_for_endings()
    return str(json.loads(end.read_text())["ending"])


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_a_message_split_at_any_byte_is_whole(tmp_path: Path, step: int) -> None:
    instance = make_series(slices=1)[0]
    with receiving(tmp_path) as here, RawPeer(here.port) as peer:
        peer.associate()
        peer.send(store_message(instance), step)
        assert peer.status() == 0x0000
        peer.release()
        (kept,) = here.inbox.incoming()
        raw = kept.read_bytes()
    assert raw[data_set_offset(raw) :] == encoded(instance)


def test_fragments_of_one_byte_in_one_pdu_and_over_many_are_joined(tmp_path: Path) -> None:
    instance = make_series(slices=1)[0]
    data = encoded(instance)
    command = store_command(str(instance.SOPInstanceUID))
    half = len(data) // 2
    with receiving(tmp_path) as here, RawPeer(here.port) as peer:
        peer.associate()
        first = [pdv(STORE, command[:9], command=True, last=False)]
        first += [pdv(STORE, command[9:], command=True, last=True)]
        first += [pdv(STORE, data[i : i + 1], command=False, last=False) for i in range(half)]
        peer.send(p_data(*first))
        for offset in range(half, len(data), 100):
            piece = data[offset : offset + 100]
            peer.send(p_data(pdv(STORE, piece, command=False, last=offset + 100 >= len(data))))
        assert peer.status() == 0x0000
        raw = next(here.inbox.incoming()).read_bytes()
    assert raw[data_set_offset(raw) :] == data


def test_echoes_are_answered_between_stores(tmp_path: Path) -> None:
    series = make_series(slices=3)
    with receiving(tmp_path) as here, RawPeer(here.port) as peer:
        peer.associate()
        for number, instance in enumerate(series):
            peer.send(store_message(instance, number))
            assert peer.status() == 0x0000
            peer.send(p_data(pdv(ECHO, echo_command(), command=True, last=True)))
            assert peer.status() == 0x0000
        peer.release()
        assert _ending(here) == "released"
        assert len(list(here.inbox.incoming())) == 3


def test_stores_sent_without_waiting_are_answered_in_order(tmp_path: Path) -> None:
    series = make_series(slices=5)
    with receiving(tmp_path) as here, RawPeer(here.port) as peer:
        peer.associate()
        peer.send(b"".join(store_message(one, number) for number, one in enumerate(series)))
        assert [peer.status() for _ in series] == [0x0000] * 5
        uids = [str(dcmread(path).SOPInstanceUID) for path in here.inbox.incoming()]
    assert uids == [str(one.SOPInstanceUID) for one in series]


@pytest.mark.parametrize(
    "said",
    [
        struct.pack(">BxL", 4, 0xFFFFFFF0),  # 4 GB of P-DATA
        struct.pack(">BxL", 4, 128 * 1024 + 1),  # one byte more than announced
        struct.pack(">BxL", 5, 1 << 20),  # a release of a megabyte
        struct.pack(">BxL", 0x42, 4) + b"\0" * 4,  # no PDU
        struct.pack(">BxL", 2, 4) + b"\0" * 4,  # an A-ASSOCIATE-AC, from the wrong side
        associate_rq(["1.2.840.10008.5.1.4.1.1.4"]),  # a second request
        p_data(pdv(99, b"x", command=True, last=True)),  # a context that was never accepted
        p_data(pdv(STORE, b"x", command=False, last=True)),  # data without a command
        p_data(pdv(STORE, os.urandom(40), command=True, last=True)),  # no command set
        p_data(pdv(STORE, b"\0" * 100_000, command=True, last=False)),  # no end of it
        p_data(struct.pack(">LBB", 1000, STORE, 1) + b"x"),  # a PDV longer than its PDU
        p_data(struct.pack(">LB", 1, STORE)),  # a PDV without its header
        p_data(
            pdv(STORE, store_command("1.2.3"), command=True, last=True),
            pdv(ECHO, echo_command(), command=True, last=True),
        ),  # another message before the data set
    ],
)
def test_what_breaks_the_protocol_is_aborted_and_others_go_on(tmp_path: Path, said: bytes) -> None:
    with receiving(tmp_path) as here, association(here.port) as other:
        before = here.resident_mb()
        with RawPeer(here.port) as peer:
            peer.associate()
            peer.send(said)
            assert peer.receive()[0] == ABORT
            assert peer.receive() == (0, b"")
        assert other.send_c_store(make_series(slices=1)[0]).Status == 0x0000
        assert here.resident_mb() < before + 10
        assert list(here.folder.rglob("*.part")) == []


def test_a_first_pdu_that_claims_4_gb_is_refused(tmp_path: Path) -> None:
    with receiving(tmp_path) as here, RawPeer(here.port) as peer:
        peer.send(struct.pack(">BxL", 1, 0xFFFFFFFF))
        assert peer.receive()[0] == ABORT


def test_an_abort_within_a_message_leaves_nothing_but_its_end(tmp_path: Path) -> None:
    series = make_series(slices=2)
    with receiving(tmp_path) as here, RawPeer(here.port) as peer:
        peer.associate()
        peer.send(store_message(series[0]))
        assert peer.status() == 0x0000
        command = store_command(str(series[1].SOPInstanceUID))
        peer.send(p_data(pdv(STORE, command, command=True, last=True)))
        peer.send(p_data(pdv(STORE, b"\x08\x00", command=False, last=False)))
        peer.abort()
        assert _ending(here) == "aborted"
        assert len(list(here.inbox.incoming())) == 1
        assert list(here.folder.rglob("*.part")) == []


def test_a_cable_that_is_cut_within_a_pdu_is_a_lost_association(tmp_path: Path) -> None:
    series = make_series(slices=2)
    with receiving(tmp_path) as here, RawPeer(here.port) as peer:
        peer.associate()
        peer.send(store_message(series[0]))
        assert peer.status() == 0x0000
        peer.send(store_message(series[1])[:500])
        peer.socket.close()
        assert _ending(here) == "lost"
        assert len(list(here.inbox.incoming())) == 1
        assert list(here.folder.rglob("*.part")) == []


@pytest.mark.parametrize("begun", [b"", b"\x04\x00\x00", p_data(b"x" * 1000)[:500]])
def test_silence_is_aborted_also_within_a_pdu(tmp_path: Path, begun: bytes) -> None:
    with receiving(tmp_path, idle_seconds=0.5) as here, RawPeer(here.port) as peer:
        peer.associate()
        peer.send(begun)
        began = time.monotonic()
        assert peer.receive()[0] == ABORT
        assert 0.4 < time.monotonic() - began < 3


def test_a_trickle_of_bytes_is_silence(tmp_path: Path) -> None:
    with receiving(tmp_path, idle_seconds=0.6) as here, RawPeer(here.port) as peer:
        peer.associate()
        began = time.monotonic()
        pieces = iter(p_data(b"x" * 1000))
        while not select.select([peer.socket], [], [], 0.05)[0]:
            peer.send(bytes([next(pieces)]))
        assert peer.receive()[0] == ABORT
        assert time.monotonic() - began < 5


def test_a_connection_that_never_asks_is_closed(tmp_path: Path) -> None:
    with receiving(tmp_path, associate_seconds=0.5) as here:
        idle = here.threads()
        with RawPeer(here.port) as silent, RawPeer(here.port) as slow:
            slow.send(b"\x01\x00\x00\x00")
            assert silent.receive() == (0, b"")
            assert slow.receive() == (0, b"")
        eventually(lambda: here.threads() <= idle, 5, "end of their threads")


def test_one_association_too_many_is_rejected_for_the_time_being(tmp_path: Path) -> None:
    with receiving(tmp_path, max_associations=2) as here:
        with association(here.port), association(here.port), RawPeer(here.port) as third:
            third.send(associate_rq(["1.2.840.10008.5.1.4.1.1.4"]))
            kind, body = third.receive()
            assert (kind, body[1:]) == (ASSOCIATE_RJ, bytes([2, 3, 2]))
        with association(here.port) as again:
            assert again.is_established


def test_one_peer_does_not_take_the_place_of_another(tmp_path: Path) -> None:
    with (
        receiving(tmp_path, max_associations_per_peer=1) as here,
        association(here.port, "ONE"),
        association(here.port, "ONE") as second,
        association(here.port, "TWO") as other,
    ):
        assert second.is_rejected
        assert other.is_established


def test_a_thousand_silent_connections_keep_nobody_out(tmp_path: Path) -> None:
    """The good sender is a process of its own: pynetdicom's select() ends at 1,024 descriptors."""
    folder = write_series(make_series(slices=1), tmp_path / "sent")
    with receiving(tmp_path / "data") as here, contextlib.ExitStack() as silent:
        for _ in range(1000):
            silent.enter_context(socket.create_connection(("127.0.0.1", here.port), timeout=10))
        assert storescu(folder, here.port).returncode == 0
        assert len(list(here.inbox.incoming())) == 1
        assert here.threads() < 120


def test_peers_that_reset_with_answers_pending_end_no_thread_and_leak_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    echo = p_data(pdv(ECHO, echo_command(), command=True, last=True))
    with receiving(tmp_path) as here:
        for _ in range(60):
            with RawPeer(here.port) as peer:
                peer.associate()
                peer.send(echo * 5)
                peer.reset()
        here.wait_for_threads(4)
    assert "Traceback" not in capfd.readouterr().err


def test_bytes_behind_a_request_that_is_rejected_end_it_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    request = associate_rq([MRImageStorage], "MODALITY")
    with receiving(tmp_path, max_associations_per_peer=1) as here, RawPeer(here.port) as first:
        first.associate()
        for _ in range(30):
            with RawPeer(here.port) as peer:
                peer.send(request + bytes(10))
                while peer.receive()[0]:
                    pass
        here.wait_for_threads(6)
    said = capfd.readouterr()
    assert "Traceback" not in said.err
    lines = [one for one in said.out.splitlines() if "breaks the protocol" in one]
    assert len(lines) <= 1


def test_a_rejected_peer_that_goes_on_sending_is_cut_off(tmp_path: Path) -> None:
    with receiving(tmp_path, accept_from=["SOMEBODY"]) as here, RawPeer(here.port) as peer:
        peer.send(associate_rq([MRImageStorage]))
        assert peer.receive()[0] == ASSOCIATE_RJ
        began = time.monotonic()
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            while time.monotonic() < began + 6:
                peer.send(bytes(10))
                time.sleep(0.01)
        assert time.monotonic() - began < 3


def test_rejected_connections_leave_no_memory_behind(tmp_path: Path) -> None:
    request = associate_rq([MRImageStorage])
    with receiving(tmp_path, accept_from=["SOMEBODY"]) as here:
        sizes = []
        for _ in range(4):
            for _ in range(60):
                with RawPeer(here.port) as peer:
                    peer.send(request)
                    assert peer.receive()[0] == ASSOCIATE_RJ
            sizes.append(here.resident_mb())
        assert sizes[-1] - sizes[0] < 25


def test_a_slow_peer_does_not_hold_up_others_nor_the_stop(tmp_path: Path) -> None:
    with receiving(tmp_path) as here, RawPeer(here.port) as slow:
        slow.associate()
        slow.send(store_message(make_series(slices=1)[0])[:300])
        with association(here.port) as one:
            for instance in make_series(slices=10):
                assert one.send_c_store(instance).Status == 0x0000
        began = time.monotonic()
        here.receiver.stop()
        assert time.monotonic() - began < 3


def test_a_receiver_that_dies_is_replaced_and_its_associations_are_lost(tmp_path: Path) -> None:
    series = make_series(slices=2)
    with receiving(tmp_path) as here:
        with RawPeer(here.port) as peer:
            peer.associate()
            peer.send(store_message(series[0]))
            assert peer.status() == 0x0000
            os.kill(here.receiver.pid, signal.SIGKILL)
            assert peer.receive() == (0, b"")
        assert _ending(here) == "lost"
        with association(here.port) as again:  # it waits in the backlog
            assert again.send_c_store(series[1]).Status == 0x0000
        names = [path.name.split("-")[1] for path in here.inbox.incoming()]
    assert len(set(names)) == 2


def test_the_halves_of_a_receiver_that_died_are_removed(tmp_path: Path) -> None:
    with receiving(tmp_path) as here, RawPeer(here.port) as peer:
        peer.associate()
        peer.send(store_message(make_series(slices=1)[0])[:-100])
        incoming = tmp_path / "incoming"
        eventually(lambda: list(incoming.glob("*.part")), 5, "a half")
        os.kill(here.receiver.pid, signal.SIGKILL)
        eventually(lambda: not list(incoming.glob("*.part")), 5, "an incoming/ without halves")


def test_a_receiver_that_dies_again_and_again_is_started_ever_more_seldom(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with receiving(tmp_path) as here:
        (tmp_path / "incoming").rename(tmp_path / "elsewhere")  # it cannot start without
        os.kill(here.receiver.pid, signal.SIGKILL)
        time.sleep(7)
    assert 2 <= capfd.readouterr().out.count("the receiving process died") <= 4


def test_released_is_told_within_milliseconds(tmp_path: Path) -> None:
    with receiving(tmp_path) as here, RawPeer(here.port) as peer:
        peer.associate()
        peer.send(store_message(make_series(slices=1)[0]))
        assert peer.status() == 0x0000
        peer.release()
        began = time.monotonic()
        here.wait_for_endings()
        assert time.monotonic() - began < 0.2


def test_memory_is_flat_whatever_the_size(tmp_path: Path) -> None:
    with receiving(tmp_path) as here:
        assert send_large(here.port, "warm", 1_000_000) == 0x0000
        before = here.resident_mb()
        statuses: list[int] = []
        senders = [
            threading.Thread(
                target=lambda n=number: statuses.append(
                    send_large(here.port, f"large{n}", 100_000_000)
                )
            )
            for number in range(8)
        ]
        for sender in senders:
            sender.start()
        most = before
        while any(sender.is_alive() for sender in senders):
            most = max(most, here.resident_mb())
            time.sleep(0.02)
        assert statuses == [0x0000] * 8
        assert most - before < 40


def test_a_stop_aborts_what_is_associated_and_says_so(tmp_path: Path) -> None:
    with receiving(tmp_path) as here, RawPeer(here.port) as peer:
        peer.associate()
        peer.send(store_message(make_series(slices=1)[0]))
        assert peer.status() == 0x0000
        here.receiver.stop()
        assert peer.receive()[0] == ABORT
        assert _ending(here) == "aborted"


def test_a_port_that_is_taken_is_told_at_once(tmp_path: Path) -> None:
    with receiving(tmp_path / "one") as here:
        Inbox(tmp_path / "two")
        with pytest.raises(ConfigError, match=r"dicom\.port: cannot listen"):
            Receiver(settings(tmp_path / "two")).start("127.0.0.1", here.port)
