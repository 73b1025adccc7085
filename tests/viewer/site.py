"""A web site for a viewer: its files and a PACS's DICOMweb behind one origin."""

import mimetypes
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.peers import REPOSITORY, missing

OHIF = REPOSITORY / ".viewer" / "ohif"
APP_CONFIG = Path(__file__).with_name("app-config.js")


class Site:
    """http://127.0.0.1:port/: OHIF; below /dicom-web/ what the PACS says there."""

    def __init__(self, pacs_port: int) -> None:
        if not (OHIF / "index.html").is_file():
            missing(f"OHIF is not in {OHIF}: .ci/viewer puts it there")
        handler = type("Handler", (_Handler,), {"pacs": f"http://127.0.0.1:{pacs_port}"})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def start(self) -> None:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    pacs: str

    def do_GET(self) -> None:
        if self.path.startswith("/dicom-web/"):
            self._forward()
        else:
            self._file(self.path.split("?")[0].lstrip("/"))

    def _forward(self) -> None:
        # With the browser's Host, so that the addresses the PACS answers with are of this origin.
        kept = {name: self.headers[name] for name in ("Accept", "Host") if self.headers[name]}
        asked = urllib.request.Request(self.pacs + self.path, headers=kept)
        try:
            with urllib.request.urlopen(asked, timeout=60) as answer:
                self._answer(answer.status, answer.headers["Content-Type"], answer.read())
        except urllib.error.HTTPError as error:
            self._answer(error.code, error.headers["Content-Type"], error.read())

    def _file(self, name: str) -> None:
        path = APP_CONFIG if name == "app-config.js" else OHIF / name
        if not path.is_file():  # a page of the application, which routes by itself
            path = OHIF / "index.html"
        self._answer(200, mimetypes.guess_type(path)[0], path.read_bytes())

    def _answer(self, status: int, content_type: str | None, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type or "application/octet-stream")
        self.send_header("Content-Length", str(len(body)))
        # What makes an origin isolated, which SharedArrayBuffer asks for.
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass
