"""The main job against real peers: start, memory, and how long a radiologist waits."""

import statistics
import time
from pathlib import Path

from bench.figure import Figure, Section
from tests.peers import DEMO_SERIES, NodeProcess, Orthanc, eventually, renamed_series, storescu

HEADING = "The main job"
STARTS = 3
SERIES = 9
QUIET_SECONDS = 1.0


def measure(folder: Path, quick: bool) -> Section:
    """Start to ready, memory of the node’s own process, last C-STORE to SEG in Orthanc."""
    return Section(HEADING, _figures(folder, *((1, 1) if quick else (STARTS, SERIES))))


def _figures(folder: Path, starts: int, count: int) -> list[Figure]:
    orthanc = Orthanc(folder / "orthanc")
    orthanc.start()
    node = NodeProcess(folder / "node", pacs_port=orthanc.dicom_port, quiet_seconds=QUIET_SECONDS)
    try:
        ready = [_seconds_to_ready(node) for _ in range(starts)]
        node.start()
        at_rest = _resident_mb(node)
        waits = [_seconds_to_result(node, orthanc, folder, number) for number in range(count)]
        after = _resident_mb(node)
        stages = _stages(node)
    finally:
        node.stop()
        orthanc.stop()
    return [
        Figure(
            "`segnode serve` → ready",
            "≤ 15 s",
            f"{statistics.median(ready):.1f} s ({min(ready):.1f} to {max(ready):.1f})",
            f"{starts} starts, demo model, network run once",
        ),
        Figure(
            "memory of the node’s own process",
            "< 200 MB, no torch",
            f"{at_rest:.0f} MB at rest, {after:.0f} MB after {count} series",
            "VmRSS; /proc/PID/maps is searched for libtorch by a test",
        ),
        Figure(
            "last C-STORE accepted → SEG in Orthanc",
            "median ≤ 2.5 s",
            f"**{statistics.median(waits):.2f} s** ({min(waits):.2f} to {max(waits):.2f})",
            f"{count} × demo series (38 slices, proven whole by their headers), exact, 8 mirrors",
        ),
        Figure("of that, by stage", "–", stages, "medians, as `segnode jobs show` tells them"),
    ]


def _seconds_to_ready(node: NodeProcess) -> float:
    began = time.monotonic()
    node.start()
    seconds = time.monotonic() - began
    node.terminate()
    return seconds


def _resident_mb(node: NodeProcess) -> float:
    status = Path(f"/proc/{node.process.pid}/status").read_text()
    (kilobytes,) = (
        int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")
    )
    return kilobytes / 1000


def _seconds_to_result(node: NodeProcess, orthanc: Orthanc, folder: Path, number: int) -> float:
    series, _ = renamed_series(DEMO_SERIES, folder / f"series{number}", f"3{number:03d}")
    before = orthanc.instance_count()
    assert storescu(series, node.port).returncode == 0
    accepted = time.monotonic()
    eventually(lambda: orthanc.instance_count() > before, 60, "SEG in Orthanc", every=0.01)
    return time.monotonic() - accepted


def _stages(node: NodeProcess) -> str:
    jobs = node.json("jobs", "list")
    names = list(jobs[0]["timings_seconds"])
    return ", ".join(
        f"{name} {statistics.median(job['timings_seconds'][name] for job in jobs):.2f} s"
        for name in names
    )
