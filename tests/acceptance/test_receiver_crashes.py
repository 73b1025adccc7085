"""kill -9 of the receiver, or of its node, under four senders: what was acknowledged is whole.

The power cut is not played here: the page cache survives a killed process. What these rounds show
is that no acknowledged Instance is missing, torn or half-named, and that no orphan goes on writing.
"""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydicom import Dataset

from node.dicom.inbox import data_set_offset
from tests.peers import REPOSITORY, eventually, free_port
from tests.receiving import RawPeer, encoded, store_message
from tests.series_factory import make_series

ROUNDS, SOAK_ROUNDS = 4, 200
SENDERS, SLICES = 4, 40
LONGEST_SECONDS = 0.35  # from the first byte to the kill


@dataclass
class Host:
    """A node's process and its receiver's."""

    process: "subprocess.Popen[str]"
    port: int
    receiver: int


@dataclass
class Sender:
    """Sends a series again and again, under new UIDs, and remembers what was acknowledged."""

    series: list[Dataset]
    messages: list[bytes] = field(default_factory=list)
    acknowledged: set[str] = field(default_factory=set)

    def run(self, port: int) -> None:
        try:
            with RawPeer(port) as peer:
                peer.associate()
                for instance, message in zip(self.series, self.messages, strict=True):
                    peer.send(message)
                    if peer.status() == 0x0000:
                        self.acknowledged.add(str(instance.SOPInstanceUID))
                peer.release()
        except (OSError, AssertionError):
            return  # the receiver is dead


@contextmanager
def _host(data_dir: Path, port: int) -> Iterator[Host]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.receiver_host", str(data_dir), str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=REPOSITORY,
    )
    try:
        assert process.stdout is not None
        line = next(one for one in process.stdout if one.startswith("listening"))
        _, port_text, receiver = line.split()
        yield Host(process, int(port_text), int(receiver))
    finally:
        process.kill()
        process.wait(10)
        if process.stdout is not None:
            process.stdout.close()


def _senders(number: int) -> list[Sender]:
    made = []
    for sender in range(SENDERS):
        series = make_series(SLICES, 128, 128, name=f"crash.{number}.{sender}")
        made.append(Sender(series, [store_message(one) for one in series]))
    return made


def _gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


def _round(number: int, folder: Path) -> int:
    """One kill; returns how many acknowledged Instances were looked at."""
    chance = random.Random(number)
    data_dir, port = folder / "var", free_port()
    senders = _senders(number)
    with _host(data_dir, port) as host:
        threads = [threading.Thread(target=one.run, args=(port,)) for one in senders]
        for thread in threads:
            thread.start()
        time.sleep(chance.uniform(0.0, LONGEST_SECONDS))
        of_node = number % 2 == 0
        os.kill(host.process.pid if of_node else host.receiver, signal.SIGKILL)
        eventually(lambda: _gone(host.receiver), 2, "end of the receiver", every=0.005)
        at_death = _instances(data_dir)
        if of_node:
            for thread in threads:
                thread.join(15)
            assert _instances(data_dir) == at_death, "an orphan goes on writing"
        else:
            with RawPeer(port) as again:  # the next one serves on the same port
                again.associate()
                again.release()
            for thread in threads:
                thread.join(15)
    return _require_whole(senders, data_dir)


def _instances(data_dir: Path) -> list[str]:
    return sorted(path.name for path in (data_dir / "incoming").glob("*.dcm"))


def _require_whole(senders: list[Sender], data_dir: Path) -> int:
    sent = {str(one.SOPInstanceUID): one for sender in senders for one in sender.series}
    kept: dict[str, bytes] = {}
    for path in (data_dir / "incoming").glob("*.dcm"):
        raw = path.read_bytes()
        data_set = raw[data_set_offset(raw) :]
        (uid,) = (uid for uid in sent if uid.encode() in raw[:600])
        assert data_set == encoded(sent[uid]), f"{path.name} is torn"
        kept[uid] = data_set
    acknowledged = set().union(*(sender.acknowledged for sender in senders))
    assert acknowledged <= set(kept), "acknowledged and missing"
    return len(acknowledged)


@pytest.mark.parametrize("number", range(ROUNDS))
def test_after_kill_9_every_acknowledged_instance_is_whole(number: int, tmp_path: Path) -> None:
    _round(number, tmp_path)


@pytest.mark.soak
def test_soak_after_200_kills_every_acknowledged_instance_is_whole(tmp_path: Path) -> None:
    checked = [_round(1000 + number, tmp_path / str(number)) for number in range(SOAK_ROUNDS)]
    print(f"{sum(checked)} acknowledged instances in {SOAK_ROUNDS} rounds, none missing or torn")
    assert sum(one > 0 for one in checked) > SOAK_ROUNDS * 0.7
