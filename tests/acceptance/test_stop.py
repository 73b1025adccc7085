"""SIGTERM ends the node within 10 s, whoever is silent."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from pynetdicom import AE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from tests.peers import DEMO_SERIES, NodeProcess, eventually, free_port, storescu


@contextmanager
def _silent_peer() -> Iterator[tuple[int, list[socket.socket]]]:
    """Takes connections and never says a word."""
    listener = socket.create_server(("127.0.0.1", 0))
    taken: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                taken.append(listener.accept()[0])
            except OSError:
                return

    threading.Thread(target=accept, daemon=True).start()
    with closing(listener):
        yield listener.getsockname()[1], taken
    for one in taken:
        one.close()


def test_a_node_whose_peers_are_silent_stops_and_loses_nothing(tmp_path: Path) -> None:
    with _silent_peer() as (port, taken):
        node = NodeProcess(tmp_path, pacs_port=port, quiet_seconds=0.3)
        node.start()
        try:
            assert storescu(DEMO_SERIES, node.port).returncode == 0
            eventually(lambda: taken, 60, "attempt to deliver")
            ae = AE(ae_title="MODALITY")
            ae.add_requested_context(Verification)
            idle = ae.associate("127.0.0.1", node.port)
            assert idle.is_established
            with (
                socket.create_connection(("127.0.0.1", node.port)),
                socket.create_connection(("127.0.0.1", node.port)) as half,
            ):
                half.sendall(b"\x01\x00\x00")  # the beginning of a PDU, and silence
                time.sleep(0.2)
                assert node.terminate() == 0  # within 10 s
            (job,) = node.json("jobs", "list")
            assert job["state"] == "SEGMENTED"
        finally:
            node.stop()


def test_a_node_whose_every_part_is_stuck_stops_all_the_same(tmp_path: Path) -> None:
    with _silent_peer() as (port, taken):
        node = NodeProcess(tmp_path, pacs_port=port, quiet_seconds=0.3)
        node.start()
        try:
            assert storescu(DEMO_SERIES, node.port).returncode == 0
            eventually(lambda: taken, 60, "attempt to deliver")  # stuck for timeout_seconds
            for pid in _children(node.process.pid):
                os.kill(pid, signal.SIGSTOP)  # the receiver and the worker answer nothing
            assert node.terminate() == 0  # within 10 s
        finally:
            node.stop()


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    found = [int(one) for task in tasks for one in (task / "children").read_text().split()]
    assert len(found) >= 2
    return found


def test_a_node_that_is_still_starting_stops(tmp_path: Path) -> None:
    node = NodeProcess(tmp_path, pacs_port=free_port())
    try:
        node.start(ready=False)  # listening; the model is being loaded
        assert node.terminate() == 0
        assert [line for line in node.log_lines() if line["event"] == "ready"] == []
    finally:
        node.stop()
