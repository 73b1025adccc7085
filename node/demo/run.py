"""The demo, step by step."""

import json
import shutil
import time
from contextlib import ExitStack
from pathlib import Path

from pydicom import dcmread
from rich.console import Console
from rich.markup import escape

from node.core.errors import Fatal
from node.core.names import AETitle
from node.demo.processes import PACS, Started, eventually, free_port, start, wait_for_log
from node.demo.report import MODEL, SERIES, Returned, is_expected, rows
from node.dicom.inbox import Inbox
from node.dicom.scu.instance import dicom_files
from node.dicom.scu.peer import Peer
from node.dicom.scu.storage import send

NODE = AETitle("SEGNODE")
QUIET_SECONDS = 2.0
RESULT_SECONDS = 120.0


def run(folder: Path, *, keep: bool, out: Console) -> bool:
    """Runs the demo in `folder`. True if the SEG that came back holds what it must."""
    if not SERIES.is_dir():
        raise Fatal(f"{SERIES} is missing: the demo runs from a checkout of the repository")
    run_folder = (folder / time.strftime("%Y%m%d-%H%M%S")).resolve()
    run_folder.mkdir(parents=True)
    with ExitStack() as started:
        pacs_port, node_port = free_port(), free_port()
        config = _write_config(run_folder, node_port, pacs_port)
        pacs = start(
            started, keep, "pacs", run_folder, ["demo-pacs", str(run_folder), str(pacs_port)]
        )
        node = start(started, keep, "node", run_folder, ["serve", "-c", str(config)])
        out.print("node and PACS are starting; the model is being loaded …")
        warm = wait_for_log(node, "model warm")["seconds"]
        ready = wait_for_log(node, "ready")["seconds"]
        result = _send_and_wait(run_folder, node_port, [node, pacs])
        for name, value in rows(run_folder, result, warm, ready):
            out.print(f"{escape(name):<24}{escape(value)}")
        good = is_expected(result.segmentation)
        out.print("The SEG holds what it must." if good else "THE SEG DOES NOT HOLD WHAT IT MUST.")
        out.print("Research use. Not a medical device.")
        if keep:
            _say_how_to_go_on(config, [node, pacs], out)
    return good


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


def _send_and_wait(folder: Path, node_port: int, alive: list[Started]) -> Returned:
    send(dicom_files(SERIES), Peer("node", NODE, "127.0.0.1", node_port), PACS)
    sent_at = time.monotonic()
    kept = Inbox(folder / "pacs")
    what = "the SEG at the PACS"
    arrived = eventually(lambda: next(kept.incoming(), None), RESULT_SECONDS, what, alive)
    seconds = time.monotonic() - sent_at
    path = folder / "segmentation.dcm"
    shutil.copyfile(arrived, path)
    return Returned(path, dcmread(path), seconds)


def _say_how_to_go_on(config: Path, kept: list[Started], out: Console) -> None:
    pids = " ".join(str(one.process.pid) for one in kept)
    out.print(f"left running: {', '.join(one.name for one in kept)} ({config})")
    out.print(f"look at it:   segnode jobs list -c {config}")
    out.print(f"end it:       kill {pids}")
