"""DICOM TLS as a client (BCP 195): to whom we speak, whom we believe, and what we say if not."""

import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from node.core.errors import ConfigError, Fatal, Temporary
from node.core.names import AETitle
from node.dicom.scu.answers import Outcome
from node.dicom.scu.instance import dicom_files
from node.dicom.scu.peer import Peer
from node.dicom.scu.storage import echo, store
from node.dicom.tls import Tls, client_context, server_context
from tests.certificates import Authority, Pair
from tests.peers import eventually, free_port, tool
from tests.scripted import scripted_peer
from tests.series_factory import make_series, write_series

US = AETitle("SEGNODE")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "certificates")


@pytest.fixture
def pacs(authority: Authority) -> Pair:
    return authority.issue("pacs")


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return dicom_files(write_series(make_series(slices=3), tmp_path / "series"))


def _server(pair: Pair, ca: Path | None = None) -> ssl.SSLContext:
    return server_context(pair.certificate, pair.key, ca)


def test_objects_go_over_tls_with_certificates_on_both_sides(
    authority: Authority, pacs: Pair, files: list[Path]
) -> None:
    ours = authority.issue("segnode")
    tls = Tls(authority.certificate, ours.certificate, ours.key)
    server = _server(pacs, authority.certificate)
    with scripted_peer(server_tls=server, tls=tls) as (peer, received):
        echo(peer, US)
        stored = store(files, peer, US)
    assert {one.outcome for one in stored} == {Outcome.STORED}
    assert len(received.data_sets) == 3


def test_large_objects_go_over_tls(authority: Authority, pacs: Pair, tmp_path: Path) -> None:
    (one,) = make_series(slices=1)
    one.PixelData = bytes(range(256)) * 40_000
    files = dicom_files(write_series([one], tmp_path / "large"))
    tls = Tls(authority.certificate)
    with scripted_peer(server_tls=_server(pacs), tls=tls, timeout_seconds=20) as (peer, received):
        (stored,) = store(files, peer, US)
    assert stored.outcome is Outcome.STORED
    (data_set,) = received.data_sets.values()
    assert data_set.endswith(one.PixelData)


def test_a_certificate_of_another_authority_is_for_a_person(
    authority: Authority, pacs: Pair, tmp_path: Path
) -> None:
    other = Authority(tmp_path / "other", "another")
    tls = Tls(other.certificate)
    with (
        scripted_peer(server_tls=_server(pacs), tls=tls) as (peer, _),
        pytest.raises(Fatal, match=r"certificate is not believed: unable to get.*set tls_ca"),
    ):
        echo(peer, US)


def test_an_expired_certificate_is_for_a_person(authority: Authority) -> None:
    expired = authority.issue("expired", days=-1)
    tls = Tls(authority.certificate)
    with (
        scripted_peer(server_tls=_server(expired), tls=tls) as (peer, _),
        pytest.raises(Fatal, match="not believed: certificate has expired; renew it there"),
    ):
        echo(peer, US)


def test_a_certificate_of_another_host_is_refused_unless_names_are_not_verified(
    authority: Authority,
) -> None:
    elsewhere = authority.issue("elsewhere", "DNS:elsewhere.example")
    tls = Tls(authority.certificate)
    with scripted_peer(server_tls=_server(elsewhere), tls=tls) as (peer, _):
        with pytest.raises(Fatal, match="not believed: IP address mismatch"):
            echo(peer, US)
        lax = Tls(authority.certificate, verify_host_name=False)
        echo(Peer("pacs", peer.ae_title, peer.host, peer.port, 5.0, tls=lax), US)


def test_a_peer_that_wants_a_certificate_and_gets_none_is_for_a_person(
    authority: Authority, pacs: Pair
) -> None:
    server = _server(pacs, authority.certificate)
    tls = Tls(authority.certificate)
    with (
        scripted_peer(server_tls=server, tls=tls) as (peer, _),
        pytest.raises(Fatal, match=r"certificate required.*believes our certificate, then resend"),
    ):
        echo(peer, US)


def test_a_peer_that_does_not_believe_our_certificate_is_for_a_person(
    authority: Authority, pacs: Pair, tmp_path: Path
) -> None:
    ours = Authority(tmp_path / "other", "another").issue("segnode")
    tls = Tls(authority.certificate, ours.certificate, ours.key)
    server = _server(pacs, authority.certificate)
    with (
        scripted_peer(server_tls=server, tls=tls) as (peer, _),
        pytest.raises(Fatal, match=r"unknown ca.*believes our certificate, then resend"),
    ):
        echo(peer, US)


def test_a_peer_that_speaks_only_old_tls_is_refused(authority: Authority, pacs: Pair) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    old.load_cert_chain(pacs.certificate, pacs.key)
    with (
        scripted_peer(server_tls=old, tls=Tls(authority.certificate)) as (peer, _),
        pytest.raises(Fatal, match=r"no TLS connection:.*TLS 1.2 or later"),
    ):
        echo(peer, US)


def test_a_weak_suite_is_refused_in_tls_1_2(authority: Authority, pacs: Pair) -> None:
    weak = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    weak.maximum_version = ssl.TLSVersion.TLSv1_2
    weak.set_ciphers("AES128-SHA")  # no forward secrecy
    weak.load_cert_chain(pacs.certificate, pacs.key)
    with (
        scripted_peer(server_tls=weak, tls=Tls(authority.certificate)) as (peer, _),
        pytest.raises(Fatal, match="no TLS connection"),
    ):
        echo(peer, US)


def test_tls_1_2_with_a_strong_suite_is_spoken(authority: Authority, pacs: Pair) -> None:
    server = _server(pacs)
    server.maximum_version = ssl.TLSVersion.TLSv1_2
    with scripted_peer(server_tls=server, tls=Tls(authority.certificate)) as (peer, received):
        echo(peer, US)
    assert received.associations == 1


def test_a_peer_that_does_not_speak_tls_is_never_spoken_to_in_the_clear(
    authority: Authority, files: list[Path]
) -> None:
    with scripted_peer(tls=Tls(authority.certificate), timeout_seconds=2.0) as (peer, received):
        stored = store(files, peer, US)
    assert Outcome.STORED not in {one.outcome for one in stored}
    assert received.data_sets == {}


def test_a_peer_that_says_nothing_in_the_handshake_is_for_later(authority: Authority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        tls = Tls(authority.certificate)
        peer = Peer("pacs", AETitle("PACS"), "127.0.0.1", port, 1.0, tls=tls)
        with pytest.raises(Temporary, match="cannot be reached"):
            echo(peer, US)


def test_a_peer_that_hangs_up_in_the_handshake_is_for_later(authority: Authority) -> None:
    with _hanging_up() as port:
        tls = Tls(authority.certificate)
        peer = Peer("pacs", AETitle("PACS"), "127.0.0.1", port, 2.0, tls=tls)
        with pytest.raises(Temporary):
            echo(peer, US)


@contextmanager
def _hanging_up() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            near, _ = listener.accept()
            near.recv(100)
            near.close()

        threading.Thread(target=hang_up, daemon=True).start()
        yield int(listener.getsockname()[1])


def test_another_toolkit_takes_our_tls(
    authority: Authority, pacs: Pair, files: list[Path], tmp_path: Path
) -> None:
    ours = authority.issue("segnode")
    port = free_port()
    folder = tmp_path / "arrived"
    folder.mkdir()
    command = [
        tool("storescp"), "-aet", "STORESCP", "-od", str(folder), "+B", "+xa",
        "+tls", str(pacs.key), str(pacs.certificate), "+cf", str(authority.certificate), str(port),
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    tls = Tls(authority.certificate, ours.certificate, ours.key)
    peer = Peer("storescp", AETitle("STORESCP"), "127.0.0.1", port, 10.0, tls=tls)
    try:
        eventually(lambda: _answers(peer), 20, "answer from storescp")
        stored = store(files, peer, US)
    finally:
        process.terminate()
        process.wait(10)
    assert {one.outcome for one in stored} == {Outcome.STORED}
    assert len(list(folder.iterdir())) == 3


def _answers(peer: Peer) -> bool:
    try:
        echo(peer, US)
    except Temporary:
        return False
    return True


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda a, p: Tls(a / "nowhere.crt"), r"nowhere\.crt cannot be read: No such file"),
        (lambda a, p: Tls(p.key), r"pacs\.key is not a certificate authority's PEM file"),
        (lambda a, p: Tls(None, p.certificate), r"pacs\.crt and its key \(in the same file\)"),
        (lambda a, p: Tls(None, p.certificate, a / "no.key"), r"no\.key cannot be read"),
        (lambda a, p: Tls(None, p.certificate, a / "hospital.key"), "are not a pair of PEM files"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(
    tmp_path: Path, pacs: Pair, make: object, sentence: str
) -> None:
    assert callable(make)
    tls = make(tmp_path / "certificates", pacs)
    with pytest.raises(ConfigError, match=sentence):
        client_context(tls)
    peer = Peer("pacs", AETitle("PACS"), "127.0.0.1", 1, 1.0, tls=tls)
    with pytest.raises(Fatal, match=sentence):
        echo(peer, US)


def test_a_key_with_a_password_is_refused_and_nobody_is_asked_for_it(
    pacs: Pair, tmp_path: Path
) -> None:
    locked = tmp_path / "locked.key"
    command = [
        tool("openssl"), "rsa", "-aes128", "-passout", "pass:secret",
        "-in", str(pacs.key), "-out", str(locked),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    with pytest.raises(ConfigError, match="the private key is encrypted"):
        client_context(Tls(None, pacs.certificate, locked))


def test_nobody_is_believed_beside_the_authority_that_is_named(authority: Authority) -> None:
    context = client_context(Tls(authority.certificate))
    assert context.cert_store_stats()["x509"] == 1
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
