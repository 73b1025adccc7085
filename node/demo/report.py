"""What the demo tells at its end, and whether the SEG holds what it must."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmread

from node.core.delivery import Delivery
from node.core.job import Job, JobState
from node.core.model import Model
from node.core.names import SeriesInstanceUID
from node.core.volume import LabelMap, Volume
from node.demo.processes import eventually
from node.dicom.assemble import assemble
from node.dicom.inbox import read_files
from node.dicom.overlay import overlay
from node.dicom.results.segmentation.decoded import frames, segment_volumes_ml
from node.dicom.scu.instance import dicom_files
from node.inference.model import load_model
from node.store import database
from node.store.jobs import JobStore
from node.store.series import SeriesStore, StoredSeries

CONFIG = Path(__file__).parents[2] / "config"
MODEL = CONFIG / "models" / "hippocampus"
SERIES = CONFIG / "demo" / "series"
DELIVERED_SECONDS = 30.0
# What the demo model finds in the demo series, ml; see config/models/hippocampus/CARD.md.
EXPECTED_ML: Mapping[str, float] = {
    "Hippocampus, anterior": 2.17,
    "Hippocampus, posterior": 2.07,
}
TOLERANCE = 0.10


@dataclass(frozen=True, eq=False)
class Returned:
    """The SEG that the PACS got. seconds: from the last answer to its arrival."""

    path: Path
    segmentation: Dataset
    seconds: float


def rows(folder: Path, result: Returned, warm: float, ready: float) -> list[tuple[str, str]]:
    """The table: what happened, and where the files are."""
    seen, job, delivery = _story(folder / "var")
    found = segment_volumes_ml(result.segmentation)
    return [
        ("received", f"{seen.instances} instances from {seen.calling_ae_title}"),
        ("closed on", seen.evidence or ""),
        ("model warm in", f"{warm:.1f} s (node ready {ready:.1f} s after its start)"),
        ("segmented in", f"{sum(job.timings.values()):.2f} s"),
        (
            "delivered",
            f"{result.seconds:.2f} s after the last instance was accepted: {delivery.answer}",
        ),
        *((label, _with_expected(label, ml)) for label, ml in found.items()),
        ("SEG", str(result.path)),
        ("picture", str(_draw(folder, result))),
    ]


def is_expected(segmentation: Dataset) -> bool:
    """Both structures, each within 10 % of its volume."""
    found = segment_volumes_ml(segmentation)
    return set(found) == set(EXPECTED_ML) and all(
        abs(found[label] - expected) <= TOLERANCE * expected
        for label, expected in EXPECTED_ML.items()
    )


def _with_expected(label: str, millilitres: float) -> str:
    expected = EXPECTED_ML.get(label)
    return f"{millilitres:.2f} ml" + (f" (expected {expected:.2f})" if expected else "")


def _story(data_dir: Path) -> tuple[StoredSeries, Job, Delivery]:
    uid = SeriesInstanceUID(str(dcmread(next(SERIES.glob("*.dcm"))).SeriesInstanceUID))
    with _stores(data_dir) as (jobs, series):
        job = eventually(
            lambda: next((j for j in jobs.of_series(uid) if j.state is JobState.DELIVERED), None),
            DELIVERED_SECONDS,
            "DELIVERED",
        )
        seen = series.get(uid)
        assert seen is not None  # its Job was just found
        return seen, job, jobs.deliveries(job.id)[0]


@contextmanager
def _stores(data_dir: Path) -> Iterator[tuple[JobStore, SeriesStore]]:
    engine = database.connect(data_dir)
    try:
        yield JobStore(engine), SeriesStore(engine)
    finally:
        engine.dispose()


def _draw(folder: Path, result: Returned) -> Path:
    model = load_model("hippocampus", MODEL)
    source = read_files(SeriesInstanceUID(""), dicom_files(SERIES))
    volume = assemble(source, model.accepts)
    path = folder / "overlay.png"
    overlay(volume, _label_map(result.segmentation, volume, model), model.segments).save(path)
    return path


def _label_map(segmentation: Dataset, volume: Volume, model: Model) -> LabelMap:
    """What the SEG says, on the grid of the series that was sent; its Segments go by label."""
    numbers = {segment.label: segment.number for segment in model.segments}
    labels = [str(item.SegmentLabel) for item in segmentation.SegmentSequence]
    array = np.zeros(volume.array.shape, np.uint8)
    to_index = np.linalg.inv(volume.affine)
    for frame in frames(segmentation):
        index = round(float((to_index @ [*frame.position, 1.0])[0]))
        assert frame.segment_number is not None  # of a BINARY one
        array[index][frame.mask] = numbers[labels[frame.segment_number - 1]]
    return LabelMap(array, volume.affine, volume.frame_of_reference_uid)
