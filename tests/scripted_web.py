"""A DICOMweb server that answers what the test tells it to, behind a real socket."""

import email.parser
import email.policy
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any

from pydicom import dcmread

# Status, body (JSON, text or bytes) and headers for the SOP Instance UID of a store, or for "".
Answer = tuple[int, Any, dict[str, str]]
Script = Callable[[str], Answer]


@dataclass
class Requests:
    """What came: files as they were sent, by SOP Instance UID, and the headers of all."""

    files: dict[str, bytes] = field(default_factory=dict)
    paths: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


def stored(uid: str, warning: int | None = None) -> Answer:
    """A Store Instances Response that has one Instance."""
    item: dict[str, Any] = {"00081155": {"vr": "UI", "Value": [uid]}}
    if warning is not None:
        item["00081196"] = {"vr": "US", "Value": [warning]}
    return 200, {"00081199": {"vr": "SQ", "Value": [item]}}, {}


def failed(uid: str, reason: int, status: int = 409) -> Answer:
    """A Store Instances Response that refuses one Instance."""
    item = {"00081155": {"vr": "UI", "Value": [uid]}, "00081197": {"vr": "US", "Value": [reason]}}
    return status, {"00081198": {"vr": "SQ", "Value": [item]}}, {}


@contextmanager
def scripted_web(
    script: Script = stored, tls: ssl.SSLContext | None = None
) -> Iterator[tuple[str, Requests]]:
    """Yields the URL of its DICOMweb root."""
    requests = Requests()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            file = _only_part(self.headers["Content-Type"], body)
            uid = str(dcmread(BytesIO(file), force=True).SOPInstanceUID)
            requests.files[uid] = file
            self._answer(script(uid))

        def do_GET(self) -> None:
            self._answer(script(""))

        def _answer(self, answer: Answer) -> None:
            requests.paths.append(self.path)
            requests.headers.append(dict(self.headers))
            status, body, headers = answer
            raw = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/dicom+json")
            self.send_header("Content-Length", str(len(raw)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        scheme = "https" if tls else "http"
        yield f"{scheme}://127.0.0.1:{server.server_address[1]}/dicom-web", requests
    finally:
        server.shutdown()
        server.server_close()


def _only_part(content_type: str, body: bytes) -> bytes:
    """Read with the standard library, which knows nothing of us."""
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(
        b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body
    )
    assert message.get_param("type") == "application/dicom"
    parts = list(message.iter_parts())
    assert [part.get_content_type() for part in parts] == ["application/dicom"]
    _, _, raw = body.partition(b"\r\n\r\n")
    boundary = str(message.get_boundary()).encode()
    return raw.removesuffix(b"\r\n--" + boundary + b"--\r\n")
