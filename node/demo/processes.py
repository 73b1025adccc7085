"""The two processes of the demo, and waiting for them."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from node.core.errors import Fatal
from node.core.names import AETitle
from node.dicom.inbox import Inbox
from node.dicom.receiver.negotiation import KINDS, negotiated
from node.dicom.receiver.settings import Settings
from node.dicom.receiver.supervisor import Receiver

PACS = AETitle("DEMOPACS")
READY_SECONDS = 180.0

T = TypeVar("T")


@dataclass(frozen=True)
class Started:
    """One of the two processes of the demo. log: its standard error."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path


def serve_pacs(folder: Path, port: int) -> None:
    """A PACS of the smallest kind: answers C-ECHO and C-STORE, keeps instances as files."""
    Inbox(folder / "pacs")  # makes its folders
    kinds = negotiated(dict.fromkeys(KINDS, True))
    settings = Settings(str(folder / "pacs"), PACS, kinds.accepted, kinds.transfer_syntaxes)
    receiver = Receiver(settings)
    receiver.start("127.0.0.1", port)
    try:
        while True:
            time.sleep(3600)
    finally:
        receiver.stop()


def start(started: ExitStack, keep: bool, name: str, folder: Path, arguments: list[str]) -> Started:
    """Runs `segnode ARGUMENTS`, which ends with `started` unless it is kept."""
    log = folder / f"{name}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "node", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=_own_environment(),
            start_new_session=keep,
        )
    one = Started(name, process, log)
    started.callback(_end, one, keep)
    return one


def _own_environment() -> dict[str, str]:
    """Ours, less the settings of another node that NODE_…__… variables would bring."""
    ours = {k: v for k, v in os.environ.items() if not (k.startswith("NODE_") and "__" in k)}
    return ours | {"TCP_NODELAY": "1"}


def _end(one: Started, keep: bool) -> None:
    failing = sys.exc_info()[0] is not None
    if keep and not failing and one.process.poll() is None:
        return
    one.process.terminate()
    try:
        one.process.wait(15)
    except subprocess.TimeoutExpired:
        one.process.kill()


def wait_for_log(one: Started, event: str) -> dict[str, Any]:
    """The first line of the log with this event."""

    def look() -> dict[str, Any] | None:
        return next((line for line in _log_lines(one) if line.get("event") == event), None)

    return eventually(look, READY_SECONDS, f'"{event}" in {one.log}', [one])


def _log_lines(one: Started) -> Iterator[dict[str, Any]]:
    for line in one.log.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("{") and line.endswith("}"):
            yield json.loads(line)


def eventually(
    look: Callable[[], T | None], seconds: float, what: str, alive: Sequence[Started] = ()
) -> T:
    """Waits for `look` to find something. Raises Fatal after `seconds`, or when a process ends."""
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


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
