"""A Peer that speaks DICOMweb: STOW-RS for objects, QIDO-RS for questions (PS3.18 10.5, 10.6).

Files go as they lie, one to a request, so that each has an answer of its own and is never whole
in memory; dicomweb-client asks the questions.
"""

import json
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import requests
from dicomweb_client.api import DICOMwebClient

from node.core.errors import Fatal, Temporary
from node.core.names import SOPInstanceUID
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
    return any(_first(one, _SOP_INSTANCE_UID) == instance_uid for one in _items(found))


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
    answer = _answer(response)
    for failed in (item for tag in _FAILED_ONES for item in _items(_values(answer, tag))):
        if _first(failed, _UID) in (instance.sop_instance_uid, None):
            return meaning(peer, _code(failed, _FAILURE_REASON) or 0x0110)
    for stored in _items(_values(answer, _STORED_ONES)):
        if _first(stored, _UID) == instance.sop_instance_uid:
            return Outcome.STORED, _stored(peer, response, _code(stored, _WARNING_REASON))
    if response.status_code == 200:  # all were stored
        return Outcome.STORED, _stored(peer, response, None)
    if response.status_code >= 500:
        return Outcome.TEMPORARY, f"{peer} failed to process it: {_http(response)}"
    sentence = f"{peer} refused it and does not say why: {_http(response)}"
    return Outcome.PERMANENT, f"{sentence}; see its log, then resend"


def _stored(peer: Peer, response: requests.Response, warning: int | None) -> str:
    if warning is None:
        return f"stored, {_http(response)}"
    outcome, words = meaning(peer, warning)
    return words if outcome is Outcome.STORED else f"stored, {in_hexadecimal(warning)}"


def _http(response: requests.Response) -> str:
    return f"HTTP {response.status_code}"


def _answer(response: requests.Response) -> dict[str, Any]:
    """The data set that a server answered with; empty where it is not DICOM JSON."""
    try:
        answer = json.loads(response.content)
    except (ValueError, RecursionError):
        return {}
    if isinstance(answer, list) and answer:
        answer = answer[0]
    return answer if isinstance(answer, dict) else {}


def _items(values: Any) -> list[dict[str, Any]]:
    return [one for one in values if isinstance(one, dict)] if isinstance(values, list) else []


def _values(item: dict[str, Any], tag: str) -> Any:
    element = item.get(tag)
    return element.get("Value") if isinstance(element, dict) else None


def _first(item: dict[str, Any], tag: str) -> Any:
    values = _values(item, tag)
    return values[0] if isinstance(values, list) and values else None


def _code(item: dict[str, Any], tag: str) -> int | None:
    code = _first(item, tag)
    return code if isinstance(code, int) and 0 <= code <= 0xFFFF else None


@contextmanager
def _client(peer: Peer) -> Iterator[DICOMwebClient]:
    """Who asks. Raises Temporary or Fatal in place of what it raises."""
    with Session(peer, _web(peer)) as session:
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
