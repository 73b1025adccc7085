"""kill -9 at every stage: nothing acknowledged is lost, one SEG arrives."""

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE
from pynetdicom.association import Association

from tests.peers import (
    DEMO_SERIES,
    NodeProcess,
    Orthanc,
    StallingProxy,
    eventually,
    renamed_series,
    storescu,
)

ROUNDS = 2
SOAK_ROUNDS = 20


@dataclass
class Scene:
    """A node that sends through a proxy to a PACS, and one series with UIDs of its own."""

    node: NodeProcess
    orthanc: Orthanc
    proxy: StallingProxy
    folder: Path
    sop_instance_uids: list[str]

    @property
    def series_instance_uid(self) -> str:
        return str(dcmread(next(self.folder.iterdir())).SeriesInstanceUID)

    def held(self) -> set[str]:
        """SOP Instance UIDs that the node has on disk, recorded or not yet."""
        found = set()
        for place in ("incoming", "instances"):
            for path in (self.node.data_dir / place).rglob("*.dcm"):
                try:
                    found.add(str(dcmread(path, stop_before_pixels=True).SOPInstanceUID))
                except FileNotFoundError:
                    continue  # moved to its place meanwhile
        return found

    def job(self) -> sqlite3.Row | None:
        with sqlite3.connect(self.node.data_dir / "segnode.sqlite", timeout=10) as connection:
            connection.row_factory = sqlite3.Row
            row: sqlite3.Row | None = connection.execute(
                "SELECT job.* FROM job JOIN job_series ON job_series.job_id = job.id "
                "WHERE series_instance_uid = ? ORDER BY job.id DESC",
                (self.series_instance_uid,),
            ).fetchone()
        return row


def _soon(look: Callable[[], object], what: str) -> None:
    eventually(look, 60, what, every=0.002)


def during_receive(scene: Scene) -> None:
    """Dies in the middle of an Association; what it acknowledged is there; the rest is resent."""
    files = sorted(scene.folder.iterdir())
    ae = AE(ae_title="MODALITY")
    ae.add_requested_context(MRImageStorage, ExplicitVRLittleEndian)
    association = ae.associate("127.0.0.1", scene.node.port, ae_title="SEGNODE")
    assert association.is_established
    acknowledged = _store_until_killed(scene, association, files)
    assert 0 < len(acknowledged) < len(files)
    assert acknowledged <= scene.held()
    scene.node.start(ready=False)
    assert acknowledged <= scene.held()
    assert storescu(scene.folder, scene.node.port).returncode == 0


def _store_until_killed(scene: Scene, association: Association, files: list[Path]) -> set[str]:
    acknowledged = set()
    for number, path in enumerate(files):
        instance = dcmread(path)
        if number == len(files) // 2:
            scene.node.process.kill()  # while the next ones are on their way
        try:
            status = association.send_c_store(instance)
        except RuntimeError:
            break
        if "Status" not in status:
            break
        assert status.Status == 0x0000
        acknowledged.add(str(instance.SOPInstanceUID))
    scene.node.kill9()
    association.abort()
    return acknowledged


def after_close(scene: Scene) -> None:
    """Dies as soon as the Job is on disk."""
    assert storescu(scene.folder, scene.node.port).returncode == 0
    _soon(lambda: scene.job() is not None, "Job")
    scene.node.kill9()
    scene.node.start(ready=False)


def during_predict(scene: Scene) -> None:
    """Dies while the network runs, and its worker with it."""
    assert storescu(scene.folder, scene.node.port).returncode == 0

    def predicting() -> bool:  # "predict", then "predict 43 %"
        job = scene.job()
        return job is not None and (job["stage"] or "").startswith("predict")

    _soon(predicting, "prediction")
    time.sleep(0.2)
    worker = _children(scene.node.process.pid)
    assert worker
    scene.node.kill9()
    eventually(lambda: not any(_is_alive(pid) for pid in worker), 10, "end of the worker")
    scene.node.start(ready=False)


def after_encode(scene: Scene) -> None:
    """Dies as soon as the result file has its name."""
    assert storescu(scene.folder, scene.node.port).returncode == 0
    results = scene.node.data_dir / "results"

    def written() -> bool:
        job = scene.job()
        return job is not None and any((results / str(job["id"])).glob("*.dcm"))

    _soon(written, "result file")
    scene.node.kill9()
    scene.node.start(ready=False)


def during_send(scene: Scene) -> None:
    """Dies with half the SEG on its way to the PACS."""
    scene.proxy.stalled.clear()
    scene.proxy.pass_bytes = 9000
    assert storescu(scene.folder, scene.node.port).returncode == 0
    assert scene.proxy.stalled.wait(60)
    scene.node.kill9()
    scene.proxy.pass_bytes = None
    scene.node.start(ready=False)


STAGES: list[Callable[[Scene], None]] = [
    during_receive,
    after_close,
    during_predict,
    after_encode,
    during_send,
]


@pytest.fixture(scope="module")
def proxy(orthanc: Orthanc) -> Iterator[StallingProxy]:
    running = StallingProxy(orthanc.dicom_port)
    yield running
    running.close()


@pytest.fixture(scope="module")
def node(proxy: StallingProxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    running = NodeProcess(tmp_path_factory.mktemp("node"), pacs_port=proxy.port, quiet_seconds=1.5)
    running.start()
    yield running
    running.stop()


@pytest.mark.parametrize("number", range(ROUNDS))
@pytest.mark.parametrize("stage", STAGES)
def test_after_kill_9_one_segmentation_arrives_and_nothing_is_missing(
    stage: Callable[[Scene], None],
    number: int,
    node: NodeProcess,
    orthanc: Orthanc,
    proxy: StallingProxy,
    tmp_path: Path,
) -> None:
    _kill_and_recover(stage, f"1{STAGES.index(stage)}{number:02d}", node, orthanc, proxy, tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("number", range(SOAK_ROUNDS))
@pytest.mark.parametrize("stage", STAGES)
def test_soak_after_kill_9_one_segmentation_arrives_and_nothing_is_missing(
    stage: Callable[[Scene], None],
    number: int,
    node: NodeProcess,
    orthanc: Orthanc,
    proxy: StallingProxy,
    tmp_path: Path,
) -> None:
    _kill_and_recover(stage, f"2{STAGES.index(stage)}{number:02d}", node, orthanc, proxy, tmp_path)


def _kill_and_recover(
    stage: Callable[[Scene], None],
    suffix: str,
    node: NodeProcess,
    orthanc: Orthanc,
    proxy: StallingProxy,
    folder: Path,
) -> None:
    node.wait_for_log("ready")
    series, uids = renamed_series(DEMO_SERIES, folder / "series", suffix)
    scene = Scene(node, orthanc, proxy, series, list(uids))
    stage(scene)
    eventually(
        lambda: (job := scene.job()) is not None and job["state"] == "DELIVERED", 90, "DELIVERED"
    )
    assert scene.held() >= set(scene.sop_instance_uids)
    job = scene.job()
    assert job is not None
    arrived = [
        str(one.SOPInstanceUID)
        for one in orthanc.segmentations()
        if one.ReferencedSeriesSequence[0].SeriesInstanceUID == scene.series_instance_uid
    ]
    assert arrived == [job["result_sop_uid"]]
    assert list(node.data_dir.rglob("*.part")) == []


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
