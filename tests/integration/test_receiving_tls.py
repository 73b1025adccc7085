"""The receiver by TLS (PS3.15 B.12): DCMTK, pynetdicom and sockets that misbehave."""

import contextlib
import os
import signal
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from structlog.testing import capture_logs

from node.core.errors import ConfigError
from node.dicom.inbox import data_set_offset
from node.dicom.receiver.supervisor import Receiver
from tests.certificates import Authority, Pair
from tests.peers import eventually, storescu, tool
from tests.receiving import (
    ABORT,
    ASSOCIATE_RJ,
    RawPeer,
    Receiving,
    associate_rq,
    association,
    encoded,
    receiving,
    settings,
    store_message,
)
from tests.series_factory import make_series, write_series


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("hospital"))


@pytest.fixture(scope="module")
def node_pair(hospital: Authority) -> Pair:
    return hospital.signs("node")


@pytest.fixture(scope="module")
def client(hospital: Authority) -> ssl.SSLContext:
    return hospital.client(hospital.signs("modality"))


@pytest.fixture
def here(tmp_path: Path, hospital: Authority, node_pair: Pair) -> Iterator[Receiving]:
    with receiving(tmp_path / "var", tls=hospital.files(node_pair), associate_seconds=2.0) as one:
        yield one


class SecurePeer(RawPeer):
    """Raw PDUs by TLS."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        super().__init__(port)
        self.socket = context.wrap_socket(self.socket, server_hostname="localhost")


def _dcmtk(name: str, port: int, *options: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [tool(name), "-aet", "MODALITY", "-aec", "SEGNODE", *options[:-1], "127.0.0.1", str(port)]
        + [one for one in options[-1:] if one],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def _handshake(port: int, context: ssl.SSLContext) -> None:
    """Raises ssl.SSLError or OSError where the receiver does not take us."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
        raw.settimeout(10)
        with context.wrap_socket(raw, server_hostname="localhost") as secure:
            secure.sendall(associate_rq(["1.2.840.10008.5.1.4.1.1.4"]))
            if not secure.recv(1):  # TLS 1.3 tells only now what became of our certificate
                raise ConnectionResetError


@contextlib.contextmanager
def _told(event: str = "TLS handshake failed") -> Iterator[list[str]]:
    """The reasons that the log gives; waits for the first."""
    reasons: list[str] = []
    with capture_logs() as logs:
        yield reasons
        eventually(lambda: any(one["event"] == event for one in logs), 10, f'"{event}"')
    reasons += [one["reason"] for one in logs if one["event"] == event]


def test_300_slices_by_tls_arrive_bit_for_bit(here: Receiving, client: ssl.SSLContext) -> None:
    series = make_series(slices=300)
    with association(here.tls_port, tls=client) as one:
        assert {one.send_c_store(instance).Status for instance in series} == {0x0000}
    kept = [path.read_bytes() for path in here.inbox.incoming()]
    assert [raw[data_set_offset(raw) :] for raw in kept] == [encoded(one) for one in series]
    (end,) = here.wait_for_endings()
    assert '"released"' in end.read_text()


@pytest.mark.parametrize("profile", ["--profile-bcp195-nd", "--profile-bcp195-ex"])
def test_dcmtk_echoes_and_stores_by_tls(
    here: Receiving, hospital: Authority, tmp_path: Path, profile: str
) -> None:
    folder = write_series(make_series(slices=30), tmp_path / "series")
    pair = hospital.signs("modality")
    secure = [
        *["+tls", str(pair.key), str(pair.certificate), "+cf", str(hospital.certificate), profile]
    ]
    echoed = _dcmtk("echoscu", here.tls_port, *secure, "")
    assert echoed.returncode == 0, echoed.stderr
    stored = _dcmtk("storescu", here.tls_port, *secure, "+sd", str(folder))
    assert stored.returncode == 0, stored.stderr
    kept = {dcmread(path).SOPInstanceUID: dcmread(path) for path in here.inbox.incoming()}
    assert kept == {dcmread(path).SOPInstanceUID: dcmread(path) for path in folder.iterdir()}


@pytest.mark.parametrize("step", [1, 1000])
def test_a_message_in_records_of_any_length_is_whole(
    here: Receiving, client: ssl.SSLContext, step: int
) -> None:
    instance = make_series(slices=1, rows=16, columns=16)[0]
    with SecurePeer(here.tls_port, client) as peer:
        peer.associate()
        peer.send(store_message(instance), step)
        assert peer.status() == 0x0000
        peer.release()
    raw = next(here.inbox.incoming()).read_bytes()
    assert raw[data_set_offset(raw) :] == encoded(instance)


def test_many_messages_in_one_burst_are_all_answered(
    here: Receiving, client: ssl.SSLContext
) -> None:
    """What OpenSSL has read and we have not is no event of the socket."""
    series = make_series(slices=40)
    with SecurePeer(here.tls_port, client) as peer:
        peer.associate()
        peer.send(b"".join(store_message(one, number) for number, one in enumerate(series)))
        assert [peer.status() for _ in series] == [0x0000] * len(series)
        peer.release()


def test_the_peer_is_told_that_the_connection_ends(here: Receiving, client: ssl.SSLContext) -> None:
    with SecurePeer(here.tls_port, client) as peer:
        assert isinstance(peer.socket, ssl.SSLSocket)
        peer.socket.suppress_ragged_eofs = False  # type: ignore[attr-defined]
        peer.associate()
        peer.release()
        assert peer.socket.recv(1) == b""  # close_notify; a bare end raises


def test_what_breaks_the_protocol_is_aborted(here: Receiving, client: ssl.SSLContext) -> None:
    with SecurePeer(here.tls_port, client) as peer:
        peer.associate()
        peer.send(struct.pack(">BxL", 4, 0xFFFFFFF0))
        assert peer.receive()[0] == ABORT


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_versions_are_spoken(
    here: Receiving, hospital: Authority, newest: ssl.TLSVersion
) -> None:
    context = hospital.client(hospital.signs("modality"))
    context.maximum_version = newest
    with SecurePeer(here.tls_port, context) as peer:
        assert isinstance(peer.socket, ssl.SSLSocket)
        assert peer.socket.version() == newest.name.replace("_", ".")
        peer.associate()
        peer.release()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_what_is_older_than_tls_1_2_is_refused(
    here: Receiving, hospital: Authority, version: ssl.TLSVersion
) -> None:
    context = hospital.client(hospital.signs("modality"))
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.minimum_version = context.maximum_version = version
    with _told() as reasons, pytest.raises(ssl.SSLError):
        _handshake(here.tls_port, context)
    assert reasons == ["it offers nothing newer than TLS 1.1"]


def test_weak_suites_of_tls_1_2_are_refused(here: Receiving, hospital: Authority) -> None:
    context = hospital.client(hospital.signs("modality"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE-ECDSA-AES128-SHA")
    with _told() as reasons, pytest.raises(ssl.SSLError):
        _handshake(here.tls_port, context)
    assert "cipher suites" in reasons[0]


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_without_a_certificate_is_refused_and_the_log_says_so(
    here: Receiving, hospital: Authority, newest: ssl.TLSVersion
) -> None:
    context = hospital.client(None)
    context.maximum_version = newest
    with _told() as reasons, pytest.raises((ssl.SSLError, ConnectionError)):
        _handshake(here.tls_port, context)
    assert "shows no certificate" in reasons[0]


def test_a_certificate_of_another_authority_is_refused_and_the_log_says_so(
    here: Receiving, hospital: Authority, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path / "strangers", "stranger").signs("modality")
    context = hospital.client(stranger)
    with _told() as reasons, pytest.raises((ssl.SSLError, ConnectionError)):
        _handshake(here.tls_port, context)
    assert "its certificate is not believed" in reasons[0]


def test_a_client_that_does_not_believe_us_is_told_of(here: Receiving, tmp_path: Path) -> None:
    context = Authority(tmp_path / "strangers", "stranger").client(None)
    with _told() as reasons, pytest.raises(ssl.SSLCertVerificationError):
        _handshake(here.tls_port, context)
    assert "believe the authority that signed our certificate" in reasons[0]


def test_a_node_that_asks_for_no_certificate_takes_anyone(
    tmp_path: Path, hospital: Authority, node_pair: Pair
) -> None:
    files = hospital.files(node_pair, asks=False)
    with (
        receiving(tmp_path, tls=files) as here,
        association(here.tls_port, tls=hospital.client(None)) as one,
    ):
        assert one.send_c_echo().Status == 0x0000


def test_plain_dicom_on_the_tls_port_is_dropped_and_the_log_says_so(here: Receiving) -> None:
    with _told() as reasons, RawPeer(here.tls_port) as peer:
        peer.send(associate_rq(["1.2.840.10008.5.1.4.1.1.4"]))
        assert peer.receive() == (0, b"")
    assert reasons == ["it speaks plain DICOM; this is the TLS port"]


def test_a_flood_of_failed_handshakes_is_one_line(here: Receiving) -> None:
    with _told() as reasons:
        for _ in range(20):
            with RawPeer(here.tls_port) as peer:
                peer.send(b"GET / HTTP/1.0\r\n\r\n")
                while peer.receive()[0]:
                    pass
        time.sleep(0.2)
    assert reasons == ["it speaks HTTP"]


def test_two_reasons_of_one_address_are_both_told(here: Receiving) -> None:
    with _told() as reasons:
        for said in (b"GET / HTTP/1.0\r\n\r\n", associate_rq(["1.2.840.10008.5.1.4.1.1.4"])):
            with RawPeer(here.tls_port) as peer:
                peer.send(said)
                while peer.receive()[0]:
                    pass
        time.sleep(0.2)
    assert reasons == ["it speaks HTTP", "it speaks plain DICOM; this is the TLS port"]


def test_a_client_that_stalls_amid_the_handshake_is_dropped_and_keeps_nobody_waiting(
    here: Receiving, client: ssl.SSLContext
) -> None:
    hello = ssl.MemoryBIO()
    half = client.wrap_bio(ssl.MemoryBIO(), hello, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        half.do_handshake()
    said = hello.read()
    with _told() as reasons, RawPeer(here.tls_port) as stalling, RawPeer(here.tls_port) as silent:
        began = time.monotonic()
        stalling.send(said[:100])
        with association(here.tls_port, tls=client) as one:
            assert one.send_c_echo().Status == 0x0000
        assert time.monotonic() - began < 1.5
        while stalling.socket.recv(1000):
            pass
        assert time.monotonic() - began < 4
        assert silent.receive() == (0, b"")  # without a word: it said nothing
        assert time.monotonic() - began < 4
    assert reasons == ["it took longer than dicom.associate_seconds"]


def test_a_handshake_that_trickles_has_one_limit_in_all(here: Receiving) -> None:
    with RawPeer(here.tls_port) as peer:
        began = time.monotonic()
        with contextlib.suppress(OSError):
            peer.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
            while time.monotonic() < began + 8:
                peer.send(b"\0")
                time.sleep(0.1)
        assert time.monotonic() - began < 5


def test_silent_connections_make_room_for_those_that_speak(
    here: Receiving, client: ssl.SSLContext
) -> None:
    with contextlib.ExitStack() as silent:
        for _ in range(100):
            silent.enter_context(RawPeer(here.tls_port))
        with association(here.tls_port, tls=client) as one:
            assert one.send_c_echo().Status == 0x0000
    here.wait_for_threads(8)


def test_the_log_says_by_what_an_association_came(here: Receiving, client: ssl.SSLContext) -> None:
    with capture_logs() as logs:
        with association(here.tls_port, tls=client) as one:
            assert one.send_c_echo().Status == 0x0000
        with association(here.port) as one:
            assert one.send_c_echo().Status == 0x0000

        def released() -> list[object] | None:
            told = [one.get("tls") for one in logs if one["event"] == "association released"]
            return told if len(told) == 2 else None

        assert eventually(released, 5, "two endings") == ["TLSv1.3", None]


def test_many_associations_and_handshakes_leave_nothing_behind(
    here: Receiving, client: ssl.SSLContext
) -> None:
    def one_of_each() -> None:
        with SecurePeer(here.tls_port, client) as peer:
            peer.associate()
            peer.release()
        with RawPeer(here.tls_port) as peer:
            peer.send(b"GET / HTTP/1.0\r\n\r\n")
            assert peer.receive() == (0, b"") or peer.receive()[0] == 0

    for _ in range(10):
        one_of_each()
    before, descriptors = here.resident_mb(), Path(f"/proc/{here.receiver.pid}/fd")
    for _ in range(60):
        one_of_each()
    here.wait_for_threads(6)
    assert here.resident_mb() < before + 8
    assert len(list(descriptors.iterdir())) < 20


def test_both_ports_share_the_limits(
    tmp_path: Path, hospital: Authority, node_pair: Pair, client: ssl.SSLContext
) -> None:
    files = hospital.files(node_pair)
    with (
        receiving(tmp_path, tls=files, max_associations=1) as here,
        association(here.port) as plain,
    ):
        assert plain.is_established
        with association(here.tls_port, tls=client) as secure:
            assert secure.is_rejected


def test_a_peer_that_has_to_use_tls_is_rejected_on_the_plain_port(
    tmp_path: Path, hospital: Authority, node_pair: Pair, client: ssl.SSLContext
) -> None:
    files = hospital.files(node_pair)
    with receiving(tmp_path, tls=files, tls_only=["MODALITY"]) as here:
        with _told("association rejected") as reasons, RawPeer(here.port) as peer:
            peer.send(associate_rq(["1.2.840.10008.5.1.4.1.1.4"]))
            assert peer.receive()[0] == ASSOCIATE_RJ
        with association(here.port, "OTHER") as plain:
            assert plain.send_c_echo().Status == 0x0000
        with association(here.tls_port, tls=client) as secure:
            assert secure.send_c_echo().Status == 0x0000
    assert reasons == ["its peer has tls = true; it has to come over the TLS port"]


def test_tls_only_has_no_plain_port(
    tmp_path: Path, hospital: Authority, node_pair: Pair, client: ssl.SSLContext
) -> None:
    receiver = Receiver(settings(tmp_path, tls=hospital.files(node_pair)))
    (tmp_path / "incoming").mkdir()
    (tmp_path / "aside").mkdir()
    port = receiver.start("127.0.0.1", None, 0)
    try:
        assert port == receiver.tls_port
        with association(port, tls=client) as one:
            assert one.send_c_echo().Status == 0x0000
    finally:
        receiver.stop()


def test_a_key_that_does_not_fit_is_said_at_the_start(
    tmp_path: Path, hospital: Authority, node_pair: Pair
) -> None:
    mixed = Pair(node_pair.certificate, hospital.signs("other").key)
    receiver = Receiver(settings(tmp_path, tls=hospital.files(mixed)))
    with pytest.raises(ConfigError, match="not a pair"):
        receiver.start("127.0.0.1", 0, 0)


def test_a_renewed_certificate_counts_from_the_next_connection_on(
    tmp_path: Path, hospital: Authority, client: ssl.SSLContext
) -> None:
    pair, renewed = hospital.signs("first"), hospital.signs("renewed")

    def shown(port: int) -> str:
        with SecurePeer(port, client) as peer:
            assert isinstance(peer.socket, ssl.SSLSocket)
            told = peer.socket.getpeercert()
            assert told is not None
            return str(dict(x[0] for x in told["subject"])["commonName"])  # type: ignore[misc]

    with receiving(tmp_path / "var", tls=hospital.files(pair)) as running:
        assert shown(running.tls_port) == "first"
        renewed.key.replace(pair.key)
        assert shown(running.tls_port) == "first"  # half renewed: no pair
        renewed.certificate.replace(pair.certificate)
        assert shown(running.tls_port) == "renewed"


def test_after_kill_9_what_was_acknowledged_by_tls_is_whole(
    here: Receiving, client: ssl.SSLContext
) -> None:
    series = make_series(slices=200, name="killed")
    acknowledged: set[str] = set()

    def send() -> None:
        with contextlib.suppress(OSError, AssertionError), SecurePeer(here.tls_port, client) as one:
            one.associate()
            for instance in series:
                one.send(store_message(instance))
                if one.status() == 0x0000:
                    acknowledged.add(str(instance.SOPInstanceUID))

    sender = threading.Thread(target=send)
    sender.start()
    eventually(lambda: len(acknowledged) > 20, 20, "acknowledgements", every=0.001)
    os.kill(here.receiver.pid, signal.SIGKILL)
    sender.join(20)
    kept = {}
    for path in here.inbox.incoming():
        raw = path.read_bytes()
        kept[str(dcmread(path).SOPInstanceUID)] = raw[data_set_offset(raw) :]
    assert acknowledged <= set(kept)
    sent = {str(one.SOPInstanceUID): encoded(one) for one in series}
    assert all(sent[uid] == data_set for uid, data_set in kept.items())
    with association(here.tls_port, tls=client) as one:  # the next receiver serves on the same port
        assert one.send_c_echo().Status == 0x0000


def test_the_plain_port_is_as_before_beside_tls(here: Receiving, tmp_path: Path) -> None:
    folder = write_series(make_series(slices=5), tmp_path / "series")
    assert storescu(folder, here.port).returncode == 0
    assert len(list(here.inbox.incoming())) == 5
