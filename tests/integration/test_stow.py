"""DICOMweb Peers: STOW-RS as the files lie, an outcome for each, QIDO-RS for questions."""

import logging
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread

from node.core.errors import Fatal, Temporary
from node.core.names import AETitle, SeriesInstanceUID, SOPInstanceUID
from node.core.result import ObjectRef, ResultKind
from node.core.uids import derive_uid
from node.dicom.scu.answers import Outcome, Stored
from node.dicom.scu.instance import dicom_files
from node.dicom.scu.peer import Peer, Web
from node.dicom.scu.query import holds
from node.dicom.scu.storage import echo, store
from node.dicom.tls import Tls, server_context
from tests.certificates import Authority
from tests.command import segnode
from tests.peers import Orthanc, free_port
from tests.scripted_web import Answer, failed, scripted_web, stored
from tests.series_factory import make_series, write_series

US = AETitle("SEGNODE")
STORED, TEMPORARY, PERMANENT = Outcome.STORED, Outcome.TEMPORARY, Outcome.PERMANENT


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return dicom_files(write_series(make_series(slices=3), tmp_path / "series"))


def _peer(url: str, seconds: float = 5.0, **web: object) -> Peer:
    return Peer("cloud", AETitle(""), "", 0, seconds, web=Web(url, **web))  # type: ignore[arg-type]


def _uid(path: Path) -> str:
    return str(dcmread(path).SOPInstanceUID)


def _outcomes(answers: list[Stored]) -> list[Outcome]:
    return [one.outcome for one in answers]


def test_files_arrive_bit_for_bit_and_each_is_answered(files: list[Path]) -> None:
    with scripted_web() as (url, requests):
        answers = store(files, _peer(url), US)
    assert _outcomes(answers) == [STORED] * 3
    assert answers[0].answer == "stored, HTTP 200"
    assert [one.sop_instance_uid for one in answers] == [_uid(path) for path in files]
    assert requests.files == {_uid(path): path.read_bytes() for path in files}
    assert set(requests.paths) == {"/dicom-web/studies"}


@pytest.mark.parametrize(
    ("answer", "outcome", "sentence"),
    [
        (lambda u: stored(u, 0xB000), STORED, "stored, 0xB000: some elements were changed"),
        (lambda u: stored(u, 0xB007), STORED, "stored, 0xB007"),
        (lambda u: (202, stored(u, 0xB006)[1], {}), STORED, "stored, 0xB006"),
        (lambda u: failed(u, 0x0111), STORED, "0x0111: it had it already"),
        (lambda u: failed(u, 0xA700), TEMPORARY, "is out of resources: 0xA700"),
        (lambda u: failed(u, 0xA700, 202), TEMPORARY, "is out of resources: 0xA700"),
        (lambda u: failed(u, 0x0110, 200), TEMPORARY, "failed to process it: 0x0110"),
        (lambda u: failed(u, 0xA900), PERMANENT, "does not match its SOP Class"),
        (lambda u: failed(u, 0xC000), PERMANENT, "cannot understand the data set"),
        (lambda u: failed(u, 0xC122), PERMANENT, "does not take the Transfer Syntax"),
        (lambda u: failed(u, 0x0122), PERMANENT, "does not support the SOP Class; enable it"),
        (lambda u: failed(u, 0x0124), PERMANENT, "does not authorise us"),
        (lambda u: (409, b"no", {}), PERMANENT, "does not say why: HTTP 409; see its log"),
        (lambda u: (202, {}, {}), PERMANENT, "does not say why: HTTP 202"),
        (lambda u: (400, b"", {}), PERMANENT, "HTTP 400"),
        (lambda u: (413, b"", {}), PERMANENT, "HTTP 413"),
        (lambda u: (500, b"", {}), TEMPORARY, "failed to process it: HTTP 500"),
        (lambda u: (409, b"[" * 100_000, {}), PERMANENT, "does not say why"),
        (lambda u: (409, {"00081198": {"Value": [7, None]}}, {}), PERMANENT, "not say why"),
    ],
)
def test_what_is_said_of_one_object_is_its_own(
    files: list[Path], answer: object, outcome: Outcome, sentence: str
) -> None:
    second = _uid(files[1])

    def script(uid: str) -> Answer:
        assert callable(answer)
        found: Answer = answer(uid) if uid == second else stored(uid)
        return found

    with scripted_web(script) as (url, requests):
        answers = store(files, _peer(url), US)
    assert _outcomes(answers) == [STORED, outcome, STORED]
    assert sentence in answers[1].answer
    assert len(requests.files) == 3


_LOGIN = b"<html><body>Please log in</body></html>"
_OF_ANOTHER = stored("1.2.3")[1]


@pytest.mark.parametrize("said", [b"", b"{}", b"<xml/>", _LOGIN, b"[" * 200_000, _OF_ANOTHER])
@pytest.mark.parametrize(
    ("held", "outcome", "sentence"),
    [
        (True, STORED, "stored, HTTP 200; it does not say so, and holds it"),
        (False, TEMPORARY, "HTTP 200 does not say that it was stored, and it is not there"),
        (None, TEMPORARY, "HTTP 200 does not say that it was stored; nor"),
    ],
)
def test_success_that_does_not_name_the_object_is_looked_after(
    files: list[Path], said: object, held: bool | None, outcome: Outcome, sentence: str
) -> None:
    uid = _uid(files[0])
    found = {True: [{"00080018": {"vr": "UI", "Value": [uid]}}], False: [], None: _LOGIN}[held]
    with scripted_web(lambda of: (200, said if of else found, {})) as (url, requests):
        (answer,) = store(files[:1], _peer(url), US)
    assert answer.outcome is outcome
    assert sentence in answer.answer
    read = dcmread(files[0])
    series = f"studies/{read.StudyInstanceUID}/series/{read.SeriesInstanceUID}"
    assert requests.paths[1].startswith(f"/dicom-web/{series}/instances?")


@pytest.mark.parametrize(
    "said",
    [
        b"[" * 200_000,
        b'[{"a":' * 20_000,
        b"null",
        b"[1, null]",
        b'"no"',
        b"\xff\xfe[",
        {"a": 1},
        [{"00080018": 5}],
        [{"00080018": {"Value": [{}]}}],
        [{"00080018": {"Value": ["1.2.3"]}}],  # it was not asked for this one
    ],
)
def test_an_odd_answer_to_a_question_is_no_answer(files: list[Path], said: object) -> None:
    with (
        scripted_web(lambda _: (200, said, {})) as (url, _),
        pytest.raises(Fatal, match="does not answer as DICOMweb does; check the url here"),
    ):
        holds(_peer(url), US, "1.2", _ref(files[0]))


@pytest.mark.parametrize("said", [(200, []), (200, b""), (204, b"")])
def test_a_question_that_finds_nothing_is_answered_with_no(
    files: list[Path], said: tuple[int, object]
) -> None:
    with scripted_web(lambda _: (*said, {})) as (url, _):
        assert not holds(_peer(url), US, "1.2", _ref(files[0]))


@pytest.mark.parametrize(
    ("status", "outcome", "sentence"),
    [
        (401, PERMANENT, "does not let us in: check user and password, or the token, here"),
        (403, PERMANENT, "does not allow us to do this: allow it there (HTTP 403), then resend"),
        (404, PERMANENT, "has nothing at this address: check the url here"),
        (302, PERMANENT, "sends us elsewhere (HTTP 302): write that url here"),
        (429, TEMPORARY, "is busy or away: HTTP 429"),
        (503, TEMPORARY, "is busy or away: HTTP 503"),
        (504, TEMPORARY, "is busy or away: HTTP 504"),
    ],
)
def test_what_is_said_of_the_service_ends_it(
    files: list[Path], status: int, outcome: Outcome, sentence: str
) -> None:
    headers = {"Location": "http://elsewhere.invalid/"}
    with scripted_web(lambda uid: (status, b"", headers)) as (url, requests):
        answers = store(files, _peer(url), US)
        kind = Fatal if outcome is PERMANENT else Temporary
        with pytest.raises(kind):
            echo(_peer(url), US)
    assert _outcomes(answers) == [outcome] * 3
    assert sentence in answers[2].answer
    assert len(requests.files) == 1


def test_a_server_that_is_down_is_for_later(files: list[Path]) -> None:
    peer = _peer(f"http://127.0.0.1:{free_port()}/dicom-web")
    answers = store(files, peer, US)
    assert _outcomes(answers) == [TEMPORARY] * 3
    assert answers[0].answer.endswith("cannot be reached: Connection refused")
    with pytest.raises(Temporary, match="cannot be reached"):
        echo(peer, US)


def test_silence_is_for_later_and_bounded(files: list[Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = _peer(f"http://127.0.0.1:{listener.getsockname()[1]}/dicom-web", 1.0)
        began = time.monotonic()
        answers = store(files, peer, US)
        assert time.monotonic() - began < 5
    assert _outcomes(answers) == [TEMPORARY] * 3
    assert "did not answer within 1 s" in answers[0].answer


def test_an_answer_without_an_end_is_cut_off(files: list[Path]) -> None:
    endless = b" " * 40_000_000
    with scripted_web(lambda uid: (200, endless, {})) as (url, _):
        answers = store(files, _peer(url), US)
    assert _outcomes(answers) == [TEMPORARY] * 3
    assert "did not come to an end with its answer" in answers[0].answer


def test_a_torn_file_is_not_sent(files: list[Path]) -> None:
    files[1].write_bytes(files[1].read_bytes()[:-50])
    with scripted_web() as (url, requests):
        answers = store(files, _peer(url), US)
    assert _outcomes(answers) == [STORED, PERMANENT, STORED]
    assert len(requests.files) == 2


def test_user_and_password_or_a_token_are_shown_to_the_server_and_to_nobody_else(
    files: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with scripted_web() as (url, requests):
        basic = _peer(url, user="segnode", password="hidden-word")
        bearer = _peer(url, token="hidden-token")
        store(files[:1], basic, US)
        store(files[:1], bearer, US)
    assert requests.headers[0]["Authorization"] == "Basic c2Vnbm9kZTpoaWRkZW4td29yZA=="
    assert requests.headers[1]["Authorization"] == "Bearer hidden-token"
    for told in (caplog.text, repr(basic), repr(bearer), str(basic)):
        assert "hidden" not in told


def test_a_token_that_cannot_be_one_is_for_a_person_and_not_repeated(files: list[Path]) -> None:
    with scripted_web() as (url, _):
        answers = store(files, _peer(url, token="hidden\nX-Other: 1"), US)
    assert _outcomes(answers) == [PERMANENT] * 3
    assert "its url, user, password or token cannot be used; mend it here" in answers[0].answer
    assert "hidden" not in answers[0].answer


def test_https_with_a_client_certificate(tmp_path: Path, files: list[Path]) -> None:
    authority = Authority(tmp_path / "certificates")
    cloud, ours = authority.issue("cloud"), authority.issue("segnode")
    server = server_context(cloud.certificate, cloud.key, authority.certificate)
    with scripted_web(tls=server) as (url, requests):
        tls = Tls(authority.certificate, ours.certificate, ours.key)
        assert _outcomes(store(files, _peer(url, tls=tls), US)) == [STORED] * 3
        for _ in range(10):  # whether it hangs up while we send is a matter of luck
            without = store(files, _peer(url, tls=Tls(authority.certificate)), US)
            assert _outcomes(without) == [PERMANENT] * 3, without
            assert "certificate required" in without[0].answer
    assert len(requests.files) == 3


def test_https_believes_nobody_but_the_authority_that_is_named(
    tmp_path: Path, files: list[Path]
) -> None:
    authority, other = Authority(tmp_path / "a"), Authority(tmp_path / "b", "another")
    cloud, elsewhere = authority.issue("cloud"), authority.issue("elsewhere", "DNS:elsewhere")
    with scripted_web(tls=server_context(cloud.certificate, cloud.key, None)) as (url, _):
        for tls in (Tls(other.certificate), Tls()):
            answers = store(files, _peer(url, tls=tls), US)
            assert _outcomes(answers) == [PERMANENT] * 3
            assert "its certificate is not believed" in answers[0].answer
    with scripted_web(tls=server_context(elsewhere.certificate, elsewhere.key, None)) as (url, _):
        strict, lax = Tls(authority.certificate), Tls(authority.certificate, verify_host_name=False)
        assert _outcomes(store(files, _peer(url, tls=strict), US)) == [PERMANENT] * 3
        assert _outcomes(store(files, _peer(url, tls=lax), US)) == [STORED] * 3


def test_a_refusal_that_comes_before_the_file_was_read_is_heard(
    tmp_path: Path, files: list[Path]
) -> None:
    read = dcmread(files[0])
    read.PixelData = bytes(20_000_000)
    read.save_as(files[0])
    authority = Authority(tmp_path / "certificates")
    cloud = authority.issue("cloud")
    context = server_context(cloud.certificate, cloud.key, None)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            near, _ = listener.accept()
            with context.wrap_socket(near, server_side=True) as secure:
                secure.recv(1000)
                secure.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
                time.sleep(0.5)

        threading.Thread(target=refuse, daemon=True).start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/dicom-web"
        answers = store(files[:1], _peer(url, tls=Tls(authority.certificate)), US)
    assert _outcomes(answers) == [PERMANENT]
    assert "HTTP 413" in answers[0].answer


def test_an_answer_that_is_no_dicomweb_is_for_a_person() -> None:
    with (
        scripted_web(lambda uid: (200, b"<html>", {})) as (url, _),
        pytest.raises(Fatal, match="does not answer as DICOMweb does; check the url here"),
    ):
        echo(_peer(url), US)


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[tuple[Orthanc, Peer]]:
    pacs = Orthanc(tmp_path / "orthanc", dicomweb=True)
    pacs.start()
    try:
        yield pacs, _peer(f"http://127.0.0.1:{pacs.http_port}/dicom-web", 20.0)
    finally:
        pacs.stop()


def _ref(read_from: Path) -> ObjectRef:
    read = dcmread(read_from)
    return ObjectRef(
        ResultKind.SEGMENTATION,
        "",
        read.SOPClassUID,
        SeriesInstanceUID(read.SeriesInstanceUID),
        SOPInstanceUID(read.SOPInstanceUID),
    )


def test_orthanc_is_asked_and_stores_and_holds(
    orthanc: tuple[Orthanc, Peer], files: list[Path]
) -> None:
    pacs, peer = orthanc
    echo(peer, US)
    answers = store(files, peer, US)
    assert _outcomes(answers) == [STORED] * 3
    assert pacs.instance_count() == 3
    with urllib.request.urlopen(f"http://127.0.0.1:{pacs.http_port}/instances") as answer:
        assert answer.status == 200
    study = str(dcmread(files[0]).StudyInstanceUID)
    assert holds(peer, US, study, _ref(files[0]))
    assert not holds(peer, US, derive_uid("no study"), _ref(files[0]))
    pacs_again = store(files, peer, US)
    assert _outcomes(pacs_again) == [STORED] * 3


def test_orthanc_does_not_hold_what_was_never_sent(
    orthanc: tuple[Orthanc, Peer], files: list[Path]
) -> None:
    _, peer = orthanc
    store(files[:1], peer, US)
    study = str(dcmread(files[0]).StudyInstanceUID)
    assert not holds(peer, US, study, _ref(files[1]))


def test_the_commands_speak_to_a_dicomweb_peer(
    orthanc: tuple[Orthanc, Peer], files: list[Path], tmp_path: Path
) -> None:
    pacs, peer = orthanc
    assert peer.web is not None
    config = tmp_path / "node.toml"
    config.write_text(f'[peers.cloud]\nurl = "{peer.web.url}/"\n')
    asked = segnode("echo", "cloud", "-c", config)
    assert asked.returncode == 0, asked.stderr
    sent = segnode("send", files[0].parent, "cloud", "-c", config)
    assert sent.returncode == 0, sent.stderr
    assert f"3 instances → cloud ({peer.web.url}): stored, HTTP 200" in sent.stdout
    assert pacs.instance_count() == 3
