"""A Peer that speaks DICOMweb: STOW-RS for objects, QIDO-RS for questions (PS3.18 10.5, 10.6).

Files go as they lie, one to a request, so that each has an answer of its own and is never whole
in memory; dicomweb-client asks the questions.
"""

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import requests
from dicomweb_client.api import DICOMwebClient

from node.core.errors import Fatal, Temporary
from node.core.names import SOPInstanceUID
from node.dicom.scu import dicom_json
from node.dicom.scu.answers import Outcome, Stored, in_hexadecimal, meaning, not_sent
from node.dicom.scu.http import Session
from node.dicom.scu.instance import Instance
from node.dicom.scu.peer import Peer, Web

# PS3.18 10.5.3, Store Instances Response, as DICOM JSON names its elements (PS3.18 F.2.2).
_STORED_ONES: Final = "00081199"
_FAILED_ONES: Final = ("00081198", "0008119A")
_UID: Final = "00081155"
_FAILURE_REASON: Final = "00081197"
_WARNING_REASON: Final = "00081196"
_SOP_INSTANCE_UID: Final = "00080018"

_ENDS_IT: Final = {  # of a status that the next object would get, too
    401: "does not let us in: check user and password, or the token, here",
    403: "does not allow us to do this: allow it there",
    404: "has nothing at this address: check the url here",
    405: "does not do this at this address: check the url here",
    407: "is behind a proxy that does not let us in",
}
_FOR_LATER: Final = frozenset({408, 425, 429, 502, 503, 504})


def echo(peer: Peer) -> None:
    """Asks for one study, which costs little. Raises Temporary or Fatal."""
    with _client(peer) as client:
        client.search_for_studies(limit=1)


def holds(peer: Peer, study_uid: str, series_uid: str, instance_uid: str) -> bool:
    """Whether it has an Instance. Raises Temporary or Fatal where it does not say."""
    with _client(peer) as client:
        found = client.search_for_instances(
            study_uid, series_uid, limit=2, search_filters={"SOPInstanceUID": instance_uid}
        )
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            raise ValueError("no data sets")
        uids = [dicom_json.uid(one, _SOP_INSTANCE_UID) for one in found]
        if uids and instance_uid not in uids:
            raise ValueError("an answer to another question")
    return bool(uids)


def store(instances: Sequence[Instance], peer: Peer) -> list[Stored]:
    """STOW-RS; what became of each, in their order."""
    answers: list[Stored] = []
    try:
        session = Session(peer, _web(peer))
        with session:
            for instance in instances:
                answers.append(_store(session, peer, instance))
    except (Temporary, Fatal) as error:
        answers += [not_sent(instance, error) for instance in instances[len(answers) :]]
    return answers


def _store(session: Session, peer: Peer, instance: Instance) -> Stored:
    with _Multipart(instance) as body:
        response = session.post(
            f"{_web(peer).url}/studies",
            data=body,
            headers={
                "Content-Type": f'multipart/related; type="application/dicom"; '
                f"boundary={body.boundary}",
                "Accept": "application/dicom+json",
            },
        )
    _require_service(peer, response)
    return Stored(SOPInstanceUID(instance.sop_instance_uid), *_outcome(peer, instance, response))


class _Multipart:
    """A request body of one part that is read from the file (RFC 2387)."""

    def __init__(self, instance: Instance) -> None:
        self.boundary = uuid.uuid4().hex  # which no file can hold on purpose
        self._before = f"--{self.boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        self._after = f"\r\n--{self.boundary}--\r\n".encode()
        self._path = instance.path

    def __enter__(self) -> "_Multipart":
        try:
            self._file = self._path.open("rb")
            self._size = self._path.stat().st_size
        except OSError as error:  # which was there a moment ago
            raise Temporary(f"{self._path} cannot be read any more: {error.strerror}") from error
        self._left = self._size
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._before) + self._size + len(self._after)

    def __iter__(self) -> Iterator[bytes]:
        while piece := self.read(1 << 16):
            yield piece

    def read(self, count: int = -1) -> bytes:
        """The next bytes; b"" at the end."""
        if self._before:
            piece, self._before = self._before, b""
            return piece
        if self._left:
            piece = self._file.read(min(count if count > 0 else self._left, self._left))
            self._left -= len(piece)
            if piece:
                return piece
        piece, self._after = self._after, b""
        return piece


def _require_service(peer: Peer, response: requests.Response) -> None:
    """Raises Temporary or Fatal where the answer is not about this object alone."""
    status = response.status_code
    if status in _FOR_LATER:
        raise Temporary(f"{peer} is busy or away: {_http(response)}")
    if status in _ENDS_IT:
        raise Fatal(f"{peer} {_ENDS_IT[status]} ({_http(response)}), then resend")


def _require_answer(peer: Peer, response: requests.Response) -> None:
    kind = Temporary if response.status_code >= 500 else Fatal
    raise kind(f"{peer} does not answer a question: {_http(response)}")


def _outcome(peer: Peer, instance: Instance, response: requests.Response) -> tuple[Outcome, str]:
    """Of the one object in a request."""
    answer = dicom_json.data_set(response.content)
    for failed in (item for tag in _FAILED_ONES for item in dicom_json.items(answer, tag)):
        if dicom_json.uid(failed, _UID) in (instance.sop_instance_uid, None):
            return meaning(peer, dicom_json.code(failed, _FAILURE_REASON) or 0x0110)
    for stored in dicom_json.items(answer, _STORED_ONES):
        if dicom_json.uid(stored, _UID) == instance.sop_instance_uid:
            return Outcome.STORED, _stored(peer, response, dicom_json.code(stored, _WARNING_REASON))
    if response.status_code == 200:
        return _looked_after(peer, instance, response)
    if response.status_code >= 500:
        return Outcome.TEMPORARY, f"{peer} failed to process it: {_http(response)}"
    sentence = f"{peer} refused it and does not say why: {_http(response)}"
    return Outcome.PERMANENT, f"{sentence}; see its log, then resend"


def _looked_after(
    peer: Peer, instance: Instance, response: requests.Response
) -> tuple[Outcome, str]:
    """Success that does not name the object: so a page to log in would answer, too."""
    sentence = f"{peer}: {_http(response)} does not say that it was stored"
    study, series = instance.study_instance_uid, instance.series_instance_uid
    try:
        if holds(peer, study, series, instance.sop_instance_uid):
            return Outcome.STORED, f"stored, {_http(response)}; it does not say so, and holds it"
    except (Temporary, Fatal) as error:
        return Outcome.TEMPORARY, f"{sentence}; nor whether it is there: {error}"
    return Outcome.TEMPORARY, f"{sentence}, and it is not there; see its log"


def _stored(peer: Peer, response: requests.Response, warning: int | None) -> str:
    if warning is None:
        return f"stored, {_http(response)}"
    outcome, words = meaning(peer, warning)
    return words if outcome is Outcome.STORED else f"stored, {in_hexadecimal(warning)}"


def _http(response: requests.Response) -> str:
    return f"HTTP {response.status_code}"


class _Asking(Session):
    """Lets dicomweb-client decode nothing that has no end to its depth."""

    def request(self, *arguments: Any, **options: Any) -> requests.Response:
        """Raises ValueError where success is no JSON."""
        response = super().request(*arguments, **options)
        if response.ok and response.content:
            dicom_json.decoded(response.content)
        return response


@contextmanager
def _client(peer: Peer) -> Iterator[DICOMwebClient]:
    """Who asks. Raises Temporary or Fatal in place of what it raises."""
    with _Asking(peer, _web(peer)) as session:
        client = DICOMwebClient(_web(peer).url, session)
        client.set_http_retry_params(retry=False)
        try:
            yield client
        except requests.HTTPError as error:
            if error.response is not None:
                _require_service(peer, error.response)
                _require_answer(peer, error.response)
            raise
        except ValueError as error:  # no JSON, for one
            raise Fatal(f"{peer} does not answer as DICOMweb does; check the url here") from error


def _web(peer: Peer) -> Web:
    assert peer.web is not None
    return peer.web
