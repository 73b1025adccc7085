"""Receiving: instances per second beside Orthanc and DCMTK, CPU time, and memory."""

import os
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from pydicom.uid import CTImageStorage

from bench.figure import Figure, Section
from tests.large import send_large
from tests.peers import NodeProcess, Orthanc, eventually, free_port, tool
from tests.receiving import Receiving, receiving
from tests.series_factory import make_series, write_series

HEADING = "Receiving"
ROUNDS = 5
SLICES = 300  # of one Association; four together send twice as many
ASSOCIATIONS, LARGE = 8, 2_000_000_000
_LONGEST_PDU = "131072"
_NOTES = (
    "512×512 slices of 0.5 MB, `dcmsend` with 128 KiB PDUs and `TCP_NODELAY=1`; the peers take "
    "turns within each round, and a ratio is the median of the rounds' ratios.",
    "The whole node runs and records what arrives on the same cores. Orthanc 1.10 as it comes; "
    "`storescp --fork` does not fsync.",
)


@dataclass(frozen=True)
class Target:
    """One of those that receive. clear: makes room after a round."""

    name: str
    ae_title: str
    port: int
    clear: Callable[[], None]


@dataclass(frozen=True)
class Rates:
    """Instances per second by target, one of each round."""

    of: dict[str, list[float]]

    def median(self, name: str) -> float:
        return statistics.median(self.of[name])

    def ratio(self, name: str, to: str) -> float:
        pairs = zip(self.of[name], self.of[to], strict=True)
        return statistics.median(ours / theirs for ours, theirs in pairs)


def measure(folder: Path, quick: bool) -> Section:
    """One Association, four of them, CPU seconds, and memory at eight times 2 GB."""
    slices, rounds, size = (40, 1, 50_000_000) if quick else (SLICES, ROUNDS, LARGE)
    with ExitStack() as started:
        node, targets = _start(folder, started)
        one_rates, cpu = _rates(targets, _Series(folder, 1, slices), rounds, node)
        four_rates, _ = _rates(targets, _Series(folder, 4, slices // 2), rounds, node)
    return Section(
        HEADING,
        [
            _speed("one association", f"{slices} slices", "≥ 1.5 × Orthanc", one_rates),
            _speed("four associations", f"{2 * slices} slices", "≥ 1.2 × Orthanc", four_rates),
            Figure(
                "CPU seconds of the receiving process per 1,000 instances",
                "–",
                f"{cpu * 1000:.2f} s",
                f"/proc/PID/stat over {rounds} × {slices} slices on one association",
            ),
            _memory(folder / "memory", size),
        ],
        _NOTES,
    )


def _start(folder: Path, started: ExitStack) -> tuple[NodeProcess, list[Target]]:
    orthanc = Orthanc(folder / "orthanc")
    orthanc.start()
    started.callback(orthanc.stop)
    node = NodeProcess(folder / "node", pacs_port=orthanc.dicom_port, when='{ Modality = "XX" }')
    node.start()
    started.callback(node.stop)
    kept, port = folder / "storescp", free_port()
    kept.mkdir()
    command = [tool("storescp"), "--fork", "-pdu", _LONGEST_PDU, "-od", str(kept), str(port)]
    storescp = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    started.callback(storescp.wait)
    started.callback(storescp.kill)
    return node, [
        Target("Segnode", "SEGNODE", node.port, lambda: _wait_until_recorded(node)),
        Target("Orthanc", "ORTHANC", orthanc.dicom_port, lambda: None),
        Target("storescp", "STORESCP", port, lambda: _empty(kept)),
    ]


@dataclass(frozen=True)
class _Series:
    """What is sent: other Instances in each round, since Orthanc skips those that it has."""

    folder: Path
    associations: int
    slices: int

    def write(self, number: int) -> list[Path]:
        """One folder for each Association, in the place of the last round's."""
        names = [f"{self.associations}.{number}.{n}" for n in range(self.associations)]
        self.folder.mkdir(exist_ok=True)
        for place in self.folder.glob("series *"):
            shutil.rmtree(place)
        return [_write_series(self.folder / f"series {n}", self.slices, n) for n in names]


def _rates(
    targets: Sequence[Target], series: "_Series", rounds: int, node: NodeProcess
) -> tuple[Rates, float]:
    """Rates of each round, and our receiver's CPU seconds per Instance."""
    found: dict[str, list[float]] = {target.name: [] for target in targets}
    count = series.associations * series.slices
    receiver = int(node.wait_for_log("receiver started")["pid"])
    before = _cpu_seconds(receiver)
    for number in range(rounds):
        folders = series.write(number)
        for target in targets:
            found[target.name].append(count / _seconds_to_send(target, folders))
            target.clear()
    return Rates(found), (_cpu_seconds(receiver) - before) / (rounds * count)


def _seconds_to_send(target: Target, folders: Sequence[Path]) -> float:
    options = ["--max-pdu", _LONGEST_PDU, "--max-send-pdu", _LONGEST_PDU, "+sd"]
    address = ["-aet", "MODALITY", "-aec", target.ae_title, "127.0.0.1", str(target.port)]
    began = time.monotonic()
    senders = [
        subprocess.Popen(
            [tool("dcmsend"), *options, *address, str(folder)],
            env=os.environ | {"TCP_NODELAY": "1"},
        )
        for folder in folders
    ]
    for sender in senders:
        assert sender.wait(300) == 0, f"{target.name} does not take everything"
    return time.monotonic() - began


def _speed(what: str, how: str, aim: str, rates: Rates) -> Figure:
    each = ", ".join(f"{name} {rates.median(name):.0f}/s" for name in rates.of)
    return Figure(
        f"{what}: instances per second",
        aim,
        f"{each}; **{rates.ratio('Segnode', 'Orthanc'):.2f} × Orthanc**, "
        f"{rates.ratio('Segnode', 'storescp'):.2f} × storescp",
        how,
    )


def _memory(folder: Path, size: int) -> Figure:
    with receiving(folder) as here:
        before = here.resident_mb()
        most = _most_memory(here, size)
        after = here.resident_mb()
    shutil.rmtree(folder)
    return Figure(
        f"memory of the receiving process, {ASSOCIATIONS} associations of {size / 1e9:g} GB each",
        "flat, ≤ 300 MB",
        f"{before:.0f} MB before, at most **{most:.0f} MB**, {after:.0f} MB after",
        "VmRSS, every 50 ms",
    )


def _most_memory(here: Receiving, size: int) -> float:
    statuses: list[int] = []
    senders = [
        threading.Thread(
            target=lambda n=number: statuses.append(send_large(here.port, f"large{n}", size))
        )
        for number in range(ASSOCIATIONS)
    ]
    for sender in senders:
        sender.start()
    most = 0.0
    while any(sender.is_alive() for sender in senders):
        most = max(most, here.resident_mb())
        time.sleep(0.05)
    assert statuses == [0x0000] * ASSOCIATIONS, statuses
    return most


def _write_series(folder: Path, slices: int, name: str) -> Path:
    instances = make_series(slices, 512, 512, name=name)
    for one in instances:
        one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = CTImageStorage
        one.Modality = "CT"
    return write_series(instances, folder)


def _wait_until_recorded(node: NodeProcess) -> None:
    incoming = node.data_dir / "incoming"
    eventually(lambda: not any(incoming.glob("*.dcm")), 120, "empty incoming/")


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def _cpu_seconds(pid: int) -> float:
    values = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")
