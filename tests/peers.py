"""The real things the tests talk to: Orthanc, DCMTK, the node in its own process."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import pytest
from pydicom import Dataset, dcmread
from pydicom.filebase import DicomBytesIO

REPOSITORY = Path(__file__).parent.parent
DEMO_MODEL = REPOSITORY / "config" / "models" / "hippocampus"
DEMO_SERIES = REPOSITORY / "config" / "demo" / "series"
DICOMWEB_PLUGIN = "/usr/share/orthanc/plugins/libOrthancDicomWeb.so"
PACKAGE_OF = {
    "Orthanc": "orthanc",
    DICOMWEB_PLUGIN: "orthanc-dicomweb",
    "storescu": "dcmtk",
    "dcmsend": "dcmtk",
}
START_SECONDS = 120.0
HERE = "127.0.0.1"

T = TypeVar("T")


def tool(name: str) -> str:
    """Path of a program of the distribution; skips, or fails with REQUIRE_PEERS=1."""
    # /usr/bin first: a virtual environment has pynetdicom's programs of the same names.
    found = shutil.which(name, path=f"/usr/bin:/usr/sbin:{os.environ['PATH']}")
    return found or missing(f"{name} is missing: apt-get install {PACKAGE_OF.get(name, name)}")


def installed(path: str) -> str:
    """A file of the distribution that is no program; skips or fails as `tool` does."""
    if Path(path).exists():
        return path
    return missing(f"{path} is missing: apt-get install {PACKAGE_OF[path]}")


def missing(sentence: str) -> NoReturn:
    """Skips for want of something that is not ours, or fails with REQUIRE_PEERS=1."""
    if os.environ.get("REQUIRE_PEERS") == "1":
        pytest.fail(sentence)
    pytest.skip(sentence)


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(look: Callable[[], T | None], seconds: float, what: str, every: float = 0.05) -> T:
    """Waits until `look` returns something true, and returns it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(every)
    raise AssertionError(f"after {seconds:g} s there was still no {what}")


class Orthanc:
    """A PACS in a folder of its own, on free ports; dicomweb: its HTTP has /dicom-web/, too."""

    def __init__(
        self, folder: Path, *, dicomweb: bool = False, modalities: Mapping[str, Any] | None = None
    ) -> None:
        self._program = tool("Orthanc")
        self._plugins = [installed(DICOMWEB_PLUGIN)] if dicomweb else []
        self._folder, self._modalities = folder, modalities or {}
        self.dicom_port, self.http_port = free_port(), free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        settings = {
            "Name": "test",
            "StorageDirectory": str(self._folder / "storage"),
            "IndexDirectory": str(self._folder / "index"),
            "DicomAet": "ORTHANC",
            "DicomPort": self.dicom_port,
            "DicomCheckCalledAet": True,
            "DicomAlwaysAllowFind": True,
            "HttpPort": self.http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "Plugins": self._plugins,
            "DicomModalities": self._modalities,  # whom it knows, and so may ask and tell
        }
        path = self._folder / "orthanc.json"
        path.write_text(json.dumps(settings))
        with (self._folder / "orthanc.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, str(path)],
                stdout=log,
                stderr=log,
                env=os.environ | {"TCP_NODELAY": "1"},
            )
        eventually(self._answers, 60, "answer from Orthanc")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:  # it waits for a peer that says nothing
                self._process.kill()
                self._process.wait(10)
            self._process = None

    def store(self, file: bytes) -> None:
        """One Part 10 file, whatever its SOP Class, without an Association."""
        asked = urllib.request.Request(self._url("/instances"), data=file, method="POST")
        with urllib.request.urlopen(asked, timeout=30):
            pass

    def segmentations(self) -> list[Dataset]:
        """Every SEG it holds, read with pydicom alone."""
        found: list[Dataset] = []
        for instance in self._get("/instances?expand"):
            if instance["MainDicomTags"].get("NumberOfFrames") is None:
                continue
            raw = self._get_bytes(f"/instances/{instance['ID']}/file")
            read = dcmread(DicomBytesIO(raw))
            if read.Modality == "SEG":
                found.append(read)
        return found

    def results(self) -> list[dict[str, str]]:
        """The main tags of every Instance it holds."""
        return [one["MainDicomTags"] for one in self._get("/instances?expand")]

    def instance_count(self) -> int:
        return int(self._get("/statistics")["CountInstances"])

    def knows(self, name: str, ae_title: str, port: int) -> None:
        """A modality that it may send to, and report to."""
        self.send("PUT", f"/modalities/{name}", {"AET": ae_title, "Host": HERE, "Port": port})

    def send(self, method: str, path: str, body: object) -> Any:
        """JSON to its REST API; returns its answer."""
        data = json.dumps(body).encode()
        request = urllib.request.Request(self._url(path), data, method=method)
        with urllib.request.urlopen(request, timeout=20) as answer:
            raw = answer.read()
            return json.loads(raw) if raw.strip() else None

    def get(self, path: str) -> Any:
        """JSON from its REST API."""
        return self._get(path)

    def _answers(self) -> bool:
        try:
            self._get("/system")
        except OSError:
            return False
        return True

    def _url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.http_port}{path}"

    def _get_bytes(self, path: str) -> bytes:
        with urllib.request.urlopen(self._url(path), timeout=10) as answer:
            raw: bytes = answer.read()
            return raw

    def _get(self, path: str) -> Any:
        return json.loads(self._get_bytes(path))


class NodeProcess:
    """`segnode serve` in its own process, as an administrator runs it."""

    def __init__(
        self, folder: Path, *, pacs_port: int, extra: str = "", **settings: object
    ) -> None:
        self.folder = folder
        self.port = free_port()
        self.data_dir = folder / "var"
        self.config = folder / "node.toml"
        self._log = folder / "node.log"
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self.config.write_text(
            _CONFIG.format(
                port=self.port,
                pacs_port=pacs_port,
                model=settings.get("model", DEMO_MODEL),
                quiet_seconds=settings.get("quiet_seconds", 1.0),
                when=settings.get("when", '{ Modality = "MR" }'),
                query=str(settings.get("query", False)).lower(),
                closing=settings.get("closing", ""),
            )
            + extra
        )

    def start(self, *, ready: bool = True) -> None:
        self._log_offset = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "node", "serve", "-c", str(self.config)],
                stdout=log,
                stderr=log,
                env=os.environ | {"TCP_NODELAY": "1"},
                cwd=REPOSITORY,
            )
        self.wait_for_log("ready" if ready else "listening")

    def wait_for_log(self, event: str) -> dict[str, Any]:
        return eventually(lambda: self._logged(event), START_SECONDS, f'"{event}" in {self._log}')

    def log_lines(self) -> list[dict[str, Any]]:
        """The log of the present process."""
        with self._log.open("rb") as file:
            file.seek(self._log_offset)
            lines = file.read().decode(errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def _logged(self, event: str) -> dict[str, Any] | None:
        if self.process.poll() is not None:
            raise AssertionError(f"the node ended:\n{self._log.read_text()[-3000:]}")
        return next((line for line in self.log_lines() if line.get("event") == event), None)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def kill9(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def terminate(self) -> int:
        """SIGTERM; returns the exit status. The node promises to stop within 10 s."""
        self.process.terminate()
        return self.process.wait(10)

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(10)

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`segnode ARGUMENTS -c node.toml` beside the node."""
        done = subprocess.run(
            [sys.executable, "-m", "node", *arguments, "-c", str(self.config)],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=REPOSITORY,
            check=False,
        )
        if check:
            assert done.returncode == 0, done.stderr
        return done

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json").stdout)


_CONFIG = """
[node]
data_dir = "var"
[dicom]
port = {port}
accept_from = ["pacs", "modality"]
[peers.pacs]
ae_title = "ORTHANC"
host = "127.0.0.1"
port = {pacs_port}
timeout_seconds = 10
query = {query}
[peers.modality]
ae_title = "MODALITY"
host = "127.0.0.1"
port = 1
[closing]
quiet_seconds = {quiet_seconds}
{closing}
[delivery]
retry_first_seconds = 0.5
[models.hippocampus]
path = "{model}"
[[routes]]
name = "brain MR"
model = "hippocampus"
send_to = ["pacs"]
when = {when}
[log]
format = "json"
"""


def storescu(
    folder: Path, port: int, calling: str = "MODALITY", called: str = "SEGNODE"
) -> subprocess.CompletedProcess[str]:
    """DCMTK sends every file of a folder over one Association."""
    return subprocess.run(
        [
            tool("storescu"), "-v", "-aet", calling, "-aec", called,
            "+sd", "+r", "127.0.0.1", str(port), str(folder),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"TCP_NODELAY": "1"},
        check=False,
    )  # fmt: skip


class StallingProxy:
    """A TCP proxy to a peer that can stop passing on what the node sends, mid-stream."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.pass_bytes: int | None = None  # of each connection; None: all
        self.stalled = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._target_port))
            for source, sink, limit in ((near, far, self.pass_bytes), (far, near, None)):
                threading.Thread(target=self._pump, args=(source, sink, limit), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, limit: int | None) -> None:
        passed = 0
        try:
            while data := source.recv(4096):
                if limit is not None and passed + len(data) > limit:
                    sink.sendall(data[: limit - passed])
                    self.stalled.set()
                    source.recv(1 << 20)  # until the sender gives up or dies
                    break
                sink.sendall(data)
                passed += len(data)
        except OSError:
            pass
        finally:
            for end in (source, sink):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)  # wakes the other direction's thread, too
                end.close()


def renamed_series(source: Path, folder: Path, suffix: str) -> tuple[Path, Sequence[str]]:
    """A copy of a series with UIDs of its own. Returns its folder and its SOP Instance UIDs."""
    folder.mkdir(parents=True, exist_ok=True)
    uids = []
    for path in sorted(source.iterdir()):
        read = dcmread(path)
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            setattr(read, keyword, f"{getattr(read, keyword)[:50]}.{suffix}")
        read.file_meta.MediaStorageSOPInstanceUID = read.SOPInstanceUID
        read.save_as(folder / path.name)
        uids.append(str(read.SOPInstanceUID))
    return folder, uids
