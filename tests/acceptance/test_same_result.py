"""The same series, from nothing each time and with a kill on the way: the same objects.

Each run has a node of its own with an empty data folder, so that its Job is a new one; the PACS
stays, and must end up with one Instance of each object. Bytes may differ in dates and times alone.
"""

import random
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread, dcmwrite

from tests.peers import DEMO_SERIES, NodeProcess, Orthanc, eventually, storescu

RUNS = 3
SOAK_RUNS = 50
_RESULTS = """
[peers.pacs.results]
structure_set = true
capture = true
"""
_KILL_WITHIN_SECONDS = 4.0  # after the last instance: closing, prediction, encoding, delivery


@pytest.mark.parametrize(
    "runs",
    [
        pytest.param(RUNS, marks=pytest.mark.slow),
        pytest.param(SOAK_RUNS, marks=pytest.mark.soak),
    ],
)
def test_the_same_job_run_again_and_killed_on_the_way_gives_the_same_objects(
    runs: int, orthanc: Orthanc, tmp_path: Path
) -> None:
    seen: dict[str, bytes] = {}
    chance = random.Random(7)
    for number in range(runs):
        objects = dict(_objects(_run(tmp_path / str(number), orthanc, chance)))
        assert len(objects) >= 4  # SEG, SR, RTSTRUCT and pictures
        assert seen in ({}, objects), f"run {number} made other objects"
        seen = objects
    held = [one for one in orthanc.results() if one["SOPInstanceUID"] in seen]
    assert sorted(one["SOPInstanceUID"] for one in held) == sorted(seen)


def _run(folder: Path, orthanc: Orthanc, chance: random.Random) -> Path:
    """One node from nothing to DELIVERED, killed once on the way; returns its results."""
    node = NodeProcess(folder, pacs_port=orthanc.dicom_port, quiet_seconds=1.0, extra=_RESULTS)
    node.start()
    try:
        assert storescu(DEMO_SERIES, node.port).returncode == 0
        time.sleep(chance.uniform(0.2, _KILL_WITHIN_SECONDS))
        node.kill9()
        node.start(ready=False)

        def delivered() -> bool:
            jobs = node.json("jobs", "list")
            return bool(jobs) and jobs[0]["state"] == "DELIVERED"

        eventually(delivered, 120, "DELIVERED", every=0.5)
        assert list(node.data_dir.rglob("*.part")) == []
    finally:
        node.stop()
    return node.data_dir / "results"


def _objects(results: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(results.rglob("*.dcm")):
        dataset = dcmread(path)
        _without_dates(dataset)
        buffer = BytesIO()
        dcmwrite(buffer, dataset, enforce_file_format=True)
        yield str(dataset.SOPInstanceUID), buffer.getvalue()


def _without_dates(dataset: Dataset) -> None:
    for element in dataset.iterall():
        if element.VR in ("DA", "TM", "DT"):
            element.value = None
