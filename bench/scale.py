"""A node that holds much, and how soon a Series that has come becomes a Job."""

import os
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.uid import CTImageStorage

from bench.figure import Figure, Section
from node.core.names import AETitle, SeriesInstanceUID, SOPInstanceUID
from node.core.uids import derive_uid, result_uids
from node.core.verdict import Verdict
from node.dicom.inbox import Inbox
from node.dicom.planes import plane_values, planes_of
from node.lanes.lane import AT_ONCE
from node.lanes.record import RecordLane
from node.store import database
from node.store.deliveries import DeliveryStore
from node.store.jobs import JobStore
from node.store.orders import JobOrder
from node.store.series import SeriesStore, StoredInstance
from tests import arrivals
from tests.peers import NodeProcess, eventually, tool
from tests.series_factory import make_series, write_series
from tests.stored import segmented, the_one

HEADING = "Much held, much coming"
FEW, MANY, PER_SERIES = 1_000, 100_000, 200
FURTHER = 300
ROUNDS = 3
SETTLE_SECONDS = 3.0


def measure(folder: Path, quick: bool) -> Section:
    """The same with little and with much held; last slice answered to Job queued."""
    few, many, further, rounds = (200, 2_000, 20, 1) if quick else (FEW, MANY, FURTHER, ROUNDS)
    little, much = (_held(folder / str(count), count) for count in (few, many))
    burst = 30 if quick else 300
    return Section(
        HEADING,
        [*_held_figures(little, much, further, rounds), *_burst_figures(folder, burst, rounds)],
    )


class _Held:
    """A node's data folder with so many Instances in it, all of them delivered."""

    def __init__(self, folder: Path, count: int) -> None:
        self.count = count
        self.node = NodeProcess(folder, pacs_port=1)
        data_dir = self.node.data_dir
        data_dir.mkdir()
        self._inbox = Inbox(data_dir)
        engine = database.connect(data_dir)
        database.migrate(engine)
        self._series, jobs = SeriesStore(engine), JobStore(engine)
        deliveries = DeliveryStore(engine)
        for number in range(count // PER_SERIES):
            self._fill(number, jobs, deliveries)
        self._recording = RecordLane(self._inbox, self._series, lambda: None)
        self._further = 0

    def _fill(self, number: int, jobs: JobStore, deliveries: DeliveryStore) -> None:
        uid = SeriesInstanceUID(derive_uid("held", str(number)))
        template = make_series(slices=1, name=f"held{number}")[0]
        planes = [plane_values(plane) for plane in planes_of(template)]
        rows = [_row(uid, slice_number, planes) for slice_number in range(PER_SERIES)]
        folder = self._inbox.folder(uid)
        folder.mkdir()
        for row in rows:
            (folder / f"i{row.sop_instance_uid}.dcm").touch()
        now = time.time()
        self._series.add_all(rows, (), now)
        seen = self._series.get(uid)
        assert seen is not None
        fingerprint = f"{number:064d}"
        order = JobOrder(
            (uid,), "route", "m", "m", fingerprint, result_uids(fingerprint, "m"), ("pacs",)
        )
        (job,) = self._series.close(seen, "", "", [order], now, verdict=Verdict.PROVEN) or []
        segmented(jobs, job, now)
        taken = deliveries.take("pacs", time.time())
        assert taken is not None
        deliveries.delivered(the_one(taken), "stored", now)

    def milliseconds_per_instance(self, instances: list[Dataset]) -> float:
        self._further += 1
        for one in instances:
            one.SeriesInstanceUID = derive_uid("further", str(self._further))
            one.SOPInstanceUID = derive_uid("further", str(self._further), str(one.InstanceNumber))
        arrivals.keep(self._inbox, instances)
        began = time.monotonic()
        while self._recording.step() == AT_ONCE:
            pass
        assert not self._inbox.arrived(), "not all of it is recorded"
        return (time.monotonic() - began) * 1000 / len(instances)

    def seconds_to_list(self) -> float:
        began = time.monotonic()
        self.node.run("jobs", "list")
        return time.monotonic() - began

    def seconds_to_start(self) -> float:
        began = time.monotonic()
        self.node.start()
        seconds = time.monotonic() - began
        self.node.terminate()
        return seconds


def _held(folder: Path, count: int) -> _Held:
    return _Held(folder, count)


def _row(uid: SeriesInstanceUID, number: int, planes: list[dict[str, object]]) -> StoredInstance:
    sop = SOPInstanceUID(derive_uid("held", uid, str(number)))
    return StoredInstance(
        series_instance_uid=uid,
        study_instance_uid=derive_uid("study", uid),
        sop_instance_uid=sop,
        sop_class_uid=CTImageStorage,
        modality="CT",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        sha256=f"{number:064d}",
        size_bytes=525_000,
        path=f"instances/s{uid}/i{sop}.dcm",
        calling_ae_title=AETitle("MODALITY"),
        received_at=time.time(),
        association=f"bench.{uid[-12:]}",
        planes=planes,
        number=number + 1,
    )


def _ct(slices: int, name: str) -> list[Dataset]:
    voxels = np.random.default_rng(1).integers(0, 4000, (slices, 512, 512), np.uint16)
    made = make_series(slices=slices, spacing_mm=(1.0, 0.8, 0.8), name=name, voxels=voxels)
    for one in made:
        one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = CTImageStorage
        one.Modality = "CT"
    return made


def _held_figures(little: _Held, much: _Held, further: int, rounds: int) -> Iterator[Figure]:
    instances = _ct(further, "further")
    times: dict[str, tuple[list[float], list[float]]] = {}
    for _ in range(rounds):  # taking turns: the machine is not the same from minute to minute
        for which, one in enumerate((little, much)):
            for what, seconds in (
                ("instance", one.milliseconds_per_instance(instances)),
                ("list", one.seconds_to_list()),
                ("start", one.seconds_to_start()),
            ):
                times.setdefault(what, ([], []))[which].append(seconds)
    few, many = f"{little.count:,}", f"{much.count:,}"
    how = f"{rounds} rounds in turn, the best of each; {PER_SERIES} instances a series"
    a, b = (min(one) for one in times["instance"])
    yield Figure(
        f"recording a further instance of 0.5 MB: {few} → {many} held",
        "≤ 20 % more",
        f"{a:.2f} → **{b:.2f} ms** ({b / a - 1:+.0%}); {1000 / b:.0f} instances/s",
        f"{how}; {further} files in incoming/, read, hashed, header parsed, committed, moved",
    )
    a, b = (min(one) for one in times["list"])
    lines = f"{little.count // PER_SERIES} and {min(100, much.count // PER_SERIES)}"
    yield Figure(
        f"`segnode jobs list`: {few} → {many} held",
        "≤ 20 % more",
        f"{a:.2f} → **{b:.2f} s** ({b / a - 1:+.0%})",
        f"{how}; from start to exit, lines for {lines} Jobs",
    )
    a, b = (min(one) for one in times["start"])
    yield Figure(
        f"`segnode serve` → ready: {few} → {many} held",
        "≤ 5 s more",
        f"{a:.1f} → **{b:.1f} s**",
        how,
    )


def _burst_figures(folder: Path, slices: int, rounds: int) -> list[Figure]:
    node = NodeProcess(
        folder / "burst",
        pacs_port=1,
        quiet_seconds=30.0,
        closing=f"settle_seconds = {SETTLE_SECONDS}",
        when='{ Modality = "CT" }',
    )
    node.start()
    try:
        counted, uncounted = (
            [_seconds_to_job(node, folder, slices, number, said) for number in range(rounds)]
            for said in (slices, None)
        )
    finally:
        node.stop()
    how = f"`dcmsend`, {slices} CT slices of 512×512 into a running node, {rounds} times"
    return [
        Figure(
            "association released → Job queued, a proven series",
            "≤ 1 s",
            f"**{statistics.median(counted):.2f} s** (worst {max(counted):.2f})",
            f"{how}; the headers count them (0020,1002)",
        ),
        Figure(
            "association released → Job queued, a consistent series",
            f"≤ {SETTLE_SECONDS:g} + 1 s",
            f"**{statistics.median(uncounted):.2f} s** (worst {max(uncounted):.2f})",
            f"{how}; settle_seconds = {SETTLE_SECONDS:g}",
        ),
    ]


def _seconds_to_job(
    node: NodeProcess, folder: Path, slices: int, number: int, said: int | None
) -> float:
    made = _ct(slices, f"burst{number}{said}")
    for one in made:
        if said is not None:
            one.ImagesInAcquisition = said
    files = write_series(made, folder / f"burst{number}{said}")
    subprocess.run(
        [
            tool("dcmsend"), "-aet", "MODALITY", "-aec", "SEGNODE", "-pdu", "131072",
            "+sd", "127.0.0.1", str(node.port), str(files),
        ],
        check=True,
        stdout=sys.stderr,
        env=os.environ | {"TCP_NODELAY": "1"},
    )  # fmt: skip
    released = time.time()
    uid = str(made[0].SeriesInstanceUID)

    def queued_at() -> float | None:
        with sqlite3.connect(node.data_dir / database.FILE_NAME, timeout=10) as connection:
            row = connection.execute(
                "SELECT created_at FROM job JOIN job_series ON job_series.job_id = job.id "
                "WHERE series_instance_uid = ?",
                (uid,),
            ).fetchone()
        return float(row[0]) if row else None

    return eventually(queued_at, 60, "Job") - released
