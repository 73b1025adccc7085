"""`segnode demo`: a node and a small PACS on free ports, one real series, and what comes back."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydicom import Dataset, dcmread
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from node.core.errors import Fatal
from node.core.names import AETitle, JobId, SeriesInstanceUID
from node.core.volume import LabelMap, Volume
from node.dicom import scu
from node.dicom.assemble import assemble
from node.dicom.inbox import Inbox, read_files
from node.dicom.overlay import overlay
from node.dicom.scp import StorageSCP
from node.dicom.verify import frames, segment_volumes_ml
from node.inference.model import load_model
from node.show import job_values
from node.store import database
from node.store.jobs import JobStore
from node.store.series import SeriesStore

CONFIG = Path(__file__).parent.parent / "config"
MODEL = CONFIG / "models" / "hippocampus"
SERIES = CONFIG / "demo" / "series"
PACS = AETitle("DEMOPACS")
NODE = AETitle("SEGNODE")
QUIET_SECONDS = 2.0
READY_SECONDS = 180.0
RESULT_SECONDS = 120.0
# What the demo model finds in the demo series, ml; see config/models/hippocampus/CARD.md.
EXPECTED_ML: Mapping[str, float] = {
    "Hippocampus, anterior": 2.17,
    "Hippocampus, posterior": 2.07,
}
TOLERANCE = 0.10

T = TypeVar("T")


@dataclass(frozen=True)
class Started:
    """One of the two processes of the demo. log: its standard error."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path


def run(folder: Path, *, keep: bool, out: Console) -> bool:
    """Runs the demo in `folder`. True if the SEG that came back holds what it must."""
    if not SERIES.is_dir():
        raise Fatal(f"{SERIES} is missing: the demo runs from a checkout of the repository")
    run_folder = (folder / time.strftime("%Y%m%d-%H%M%S")).resolve()
    run_folder.mkdir(parents=True)
    with ExitStack() as started:
        pacs_port, node_port = _free_port(), _free_port()
        config = _write_config(run_folder, node_port, pacs_port)
        pacs = _start(
            started, keep, "pacs", run_folder, ["demo-pacs", str(run_folder), str(pacs_port)]
        )
        node = _start(started, keep, "node", run_folder, ["serve", "-c", str(config)])
        out.print("node and PACS are starting; the model is being loaded …")
        warm = _wait_for_log(node, "model warm")["seconds"]
        ready = _wait_for_log(node, "ready")["seconds"]
        result = _send_and_wait(run_folder, node_port, pacs)
        good = _report(run_folder, result, warm, ready, out)
        if keep:
            _say_how_to_go_on(config, [node, pacs], out)
    return good


def serve_pacs(folder: Path, port: int) -> None:
    """A PACS of the smallest kind: answers C-ECHO and C-STORE, keeps instances as files."""
    scp = StorageSCP(Inbox(folder / "pacs"), ae_title=PACS, accept_from=None)
    scp.start("127.0.0.1", port)
    try:
        while True:
            time.sleep(3600)
    finally:
        scp.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _write_config(folder: Path, node_port: int, pacs_port: int) -> Path:
    path = folder / "node.toml"
    path.write_text(
        f"""# Made by `segnode demo`.
[node]
data_dir = "var"
[dicom]
ae_title = "{NODE}"
port = {node_port}
accept_from = ["pacs"]
[peers.pacs]
ae_title = "{PACS}"
host = "127.0.0.1"
port = {pacs_port}
[closing]
quiet_seconds = {QUIET_SECONDS}
[models.hippocampus]
path = {json.dumps(str(MODEL))}
[[routes]]
name = "demo"
model = "hippocampus"
send_to = ["pacs"]
when = {{ Modality = "MR", SeriesDescription = "~(?i)hippo" }}
[log]
format = "json"
""",
        encoding="utf-8",
    )
    return path


def _start(
    started: ExitStack, keep: bool, name: str, folder: Path, arguments: list[str]
) -> Started:
    log = folder / f"{name}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "node", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=os.environ | {"TCP_NODELAY": "1"},
            start_new_session=keep,
        )
    one = Started(name, process, log)
    started.callback(_end, one, keep)
    return one


def _end(one: Started, keep: bool) -> None:
    failing = sys.exc_info()[0] is not None
    if keep and not failing and one.process.poll() is None:
        return
    one.process.terminate()
    try:
        one.process.wait(15)
    except subprocess.TimeoutExpired:
        one.process.kill()


def _wait_for_log(one: Started, event: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        return next((line for line in _log_lines(one) if line.get("event") == event), None)

    return _eventually(look, READY_SECONDS, f'"{event}" in {one.log}', [one])


def _log_lines(one: Started) -> Iterator[dict[str, Any]]:
    for line in one.log.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("{") and line.endswith("}"):
            yield json.loads(line)


def _eventually(look: Callable[[], T | None], seconds: float, what: str, alive: list[Started]) -> T:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if (found := look()) is not None:
            return found
        for one in alive:
            if one.process.poll() is not None:
                last = one.log.read_text(encoding="utf-8", errors="replace")[-2000:]
                raise Fatal(f"the demo's {one.name} ended by itself; {one.log} says:\n{last}")
        time.sleep(0.1)
    raise Fatal(f"the demo waited {seconds:g} s in vain for {what}")


@dataclass(frozen=True, eq=False)
class Returned:
    """The SEG at the PACS. seconds: from the last C-STORE to it, the quiet period included."""

    path: Path
    segmentation: Dataset
    seconds: float


def _send_and_wait(folder: Path, node_port: int, pacs: Started) -> Returned:
    node = scu.Peer("node", NODE, "127.0.0.1", node_port)
    scu.send(scu.dicom_files(SERIES), node, PACS)
    sent = time.monotonic()
    kept = Inbox(folder / "pacs")
    path = _eventually(
        lambda: next(kept.incoming(), None), RESULT_SECONDS, "the SEG at the PACS", [pacs]
    )
    return Returned(path, dcmread(path), time.monotonic() - sent)


def _report(folder: Path, result: Returned, warm: float, ready: float, out: Console) -> bool:
    with _stores(folder / "var") as (jobs, series):
        uid = SeriesInstanceUID(str(dcmread(next(SERIES.glob("*.dcm"))).SeriesInstanceUID))
        seen = series.get(uid)
        job = _eventually(
            lambda: next((j for j in jobs.of_series(uid) if j.state == "DELIVERED"), None),
            RESULT_SECONDS,
            "DELIVERED",
            [],
        )
        values = job_values(job, jobs.deliveries(JobId(job.id)))
    assert seen is not None
    found = segment_volumes_ml(result.segmentation)
    table = Table(show_header=False, box=None)
    rows = [
        ("received", f"{seen.instances} instances from {seen.calling_ae_title}"),
        ("closed on", seen.evidence or ""),
        ("model warm in", f"{warm:.1f} s (node ready in {ready:.1f} s)"),
        ("segmented in", f"{sum(job.timings.values()):.2f} s"),
        (
            "delivered",
            f"{result.seconds - QUIET_SECONDS:.2f} s after the series was quiet: "
            f"{values['deliveries'][0]['answer']}",
        ),
        *((f"segment {label}", _judged(label, ml)) for label, ml in found.items()),
        ("SEG", str(result.path)),
        ("picture", str(_draw(folder, result))),
    ]
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    out.print(table)
    good = _is_expected(found)
    out.print("the SEG holds what it must" if good else "THE SEG DOES NOT HOLD WHAT IT MUST")
    out.print("Research use. Not a medical device.")
    return good


def _judged(label: str, millilitres: float) -> str:
    expected = EXPECTED_ML.get(label)
    return f"{millilitres:.2f} ml" + (f" (expected {expected:.2f})" if expected else "")


def _is_expected(found: Mapping[str, float]) -> bool:
    return set(found) == set(EXPECTED_ML) and all(
        abs(found[label] - expected) <= TOLERANCE * expected
        for label, expected in EXPECTED_ML.items()
    )


def _draw(folder: Path, result: Returned) -> Path:
    model = load_model("hippocampus", MODEL)
    source = read_files(SeriesInstanceUID(""), scu.dicom_files(SERIES))
    volume = assemble(source, model.accepts)
    path = folder / "overlay.png"
    overlay(volume, _label_map(result.segmentation, volume), model.segments).save(path)
    return path


def _label_map(segmentation: Dataset, volume: Volume) -> LabelMap:
    """What the SEG says, on the grid of the series that was sent."""
    labels = np.zeros(volume.array.shape, np.uint8)
    to_index = np.linalg.inv(volume.affine)
    for frame in frames(segmentation):
        index = round(float((to_index @ [*frame.position, 1.0])[0]))
        labels[index][frame.mask] = frame.segment_number
    return LabelMap(labels, volume.affine, volume.frame_of_reference_uid)


@contextmanager
def _stores(data_dir: Path) -> Iterator[tuple[JobStore, SeriesStore]]:
    engine = database.connect(data_dir)
    try:
        yield JobStore(engine), SeriesStore(engine)
    finally:
        engine.dispose()


def _say_how_to_go_on(config: Path, kept: list[Started], out: Console) -> None:
    pids = " ".join(str(one.process.pid) for one in kept)
    out.print(f"left running: {', '.join(one.name for one in kept)} ({config})")
    out.print(f"look at it:   segnode jobs list -c {config}")
    out.print(f"end it:       kill {pids}")
