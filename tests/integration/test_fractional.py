"""From the worker process into a FRACTIONAL Segmentation that highdicom reads."""

from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

import highdicom
import numpy as np
import pytest
from pydicom import Dataset, dcmread

from node import pipeline
from node.core.anatomy import TISSUE, Segment
from node.core.errors import Fatal
from node.core.job import Job, JobState
from node.core.model import Engine, InputRules, Model, Tell, tell_nobody
from node.core.names import JobId, SeriesInstanceUID
from node.core.result import ObjectRef, ResultKind, SegForm, SegType, Wants
from node.core.uids import input_fingerprint, result_uids
from node.core.volume import LabelMap, Volume
from node.dicom.inbox import Inbox
from node.dicom.outbox import Outbox
from node.inference.engine import InProcessEngine, WorkerEngine
from node.inference.model import load_model
from node.store import database
from node.store.series import SeriesStore
from tests.arrivals import keep
from tests.images import TOLERANCE
from tests.made_up import made_up_model
from tests.model_factory import HIPPOCAMPUS, make_model_folder, noise_volume
from tests.spheres import CASES, sphere_series
from tests.stock import stock_probabilities

READY_SECONDS = 120.0
FRACTIONAL = Wants(SegForm(SegType.FRACTIONAL))


@pytest.fixture(scope="module")
def hippocampus() -> Model:
    return load_model("hippocampus", HIPPOCAMPUS)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """299 labels."""
    labels = {"background": 0, **{f"label {number}": number for number in range(1, 300)}}
    return load_model("many", make_model_folder(tmp_path_factory.mktemp("many"), labels=labels))


@pytest.fixture(scope="module")
def worker(hippocampus: Model, many: Model) -> Iterator[WorkerEngine]:
    engine = WorkerEngine({"hippocampus": hippocampus, "many": many}, device="cpu")
    engine.start()
    engine.wait_ready(READY_SECONDS)
    yield engine
    engine.stop()


def demo() -> list[Dataset]:
    folder = HIPPOCAMPUS.parents[1] / "demo" / "series"
    return [dcmread(path) for path in sorted(folder.glob("*.dcm"))]


class World:
    """A data folder that has received one Series."""

    def __init__(self, folder: Path, instances: Sequence[Dataset]) -> None:
        self.inbox, self.outbox = Inbox(folder), Outbox(folder)
        rows = database.connect(folder)
        database.migrate(rows)
        keep(self.inbox, instances)
        pipeline.record(self.inbox.arrived(), self.inbox, SeriesStore(rows), 1.0)
        rows.dispose()
        self.uid = SeriesInstanceUID(instances[0].SeriesInstanceUID)

    def segmented(self, model: Model, engine: Engine, *wants: Wants) -> dict[ObjectRef, bytes]:
        """The result files of one Job."""
        job = self._job(model)
        models, watch = {model.name: model}, pipeline.Unwatched()
        refs = pipeline.segment(job, self.inbox, self.outbox, models, engine, wants, watch)
        files = self.outbox.files(job.id, [ref.sop_instance_uid for ref in refs])
        return {ref: path.read_bytes() for ref, path in zip(refs, files, strict=True)}

    def _job(self, model: Model) -> Job:
        fingerprint = input_fingerprint([self.inbox.read(self.uid).sha256_by_sop])
        return Job(
            id=JobId(1),
            series_instance_uids=(self.uid,),
            route="all",
            model=model.name,
            model_fingerprint=model.fingerprint,
            input_fingerprint=fingerprint,
            result_uids=result_uids(fingerprint, model.fingerprint),
            state=JobState.QUEUED,
            attempts=1,
            not_before=0.0,
            created_at=1_700_000_000.0,
            updated_at=1_700_000_000.0,
        )


def segmentation_in(files: dict[ObjectRef, bytes], kind: SegType) -> bytes:
    """The one Segmentation of this type."""
    (found,) = (
        content
        for ref, content in files.items()
        if ref.kind is ResultKind.SEGMENTATION
        and dcmread(BytesIO(content)).SegmentationType == kind.value.upper()
    )
    return found


def test_a_peer_that_asks_for_it_gets_nnunets_probabilities_of_a_real_hippocampus(
    hippocampus: Model, worker: WorkerEngine, tmp_path: Path
) -> None:
    world = World(tmp_path, demo())
    files = world.segmented(hippocampus, worker, FRACTIONAL, Wants())
    read = highdicom.seg.segread(BytesIO(segmentation_in(files, SegType.FRACTIONAL)))
    uids = [str(one.SOPInstanceUID) for one in sorted(demo(), key=height)]
    found = read.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)
    assert (read.SegmentationFractionalType, read.number_of_segments) == ("PROBABILITY", 2)

    array = np.stack([one.pixel_array for one in sorted(demo(), key=height)]).astype(np.float32)
    as_trained = array[None, :, ::-1, ::-1]  # RAS: x and y are reversed against DICOM
    wanted = stock_probabilities(hippocampus, np.ascontiguousarray(as_trained), (1.0, 1.0, 1.0))
    for label in (1, 2):
        expected = wanted[label, :, ::-1, ::-1]
        assert np.abs(found[..., label - 1] - expected).max() <= TOLERANCE
        assert expected.max() > 0.99


def height(one: Dataset) -> float:
    return float(one.ImagePositionPatient[2])


class Overheard:
    """An Engine that keeps what it is asked."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.asked = engine, list[bool]()

    def segment(
        self,
        volumes: Sequence[Volume],
        model: Model,
        tell: Tell = tell_nobody,
        probabilities: bool = False,
    ) -> LabelMap:
        self.asked.append(probabilities)
        return self.engine.segment(volumes, model, tell, probabilities)


def test_who_wants_none_has_the_same_bytes_and_nobody_computes_them(
    hippocampus: Model, worker: WorkerEngine, tmp_path: Path
) -> None:
    world, engine = World(tmp_path, demo()), Overheard(worker)
    labelmap = Wants(SegForm(SegType.LABELMAP))
    without = world.segmented(hippocampus, engine, Wants(), labelmap)
    together = world.segmented(hippocampus, engine, Wants(), labelmap, FRACTIONAL)
    again = world.segmented(hippocampus, engine, FRACTIONAL)
    assert engine.asked == [False, True, True]
    assert without.items() < together.items()
    assert again.items() < together.items()


def test_the_worker_answers_as_a_segmenter_in_this_process_does(
    hippocampus: Model, worker: WorkerEngine
) -> None:
    volume = noise_volume((30, 40, 36), (1.0, 1.0, 1.0))
    ours = InProcessEngine(device="cpu").segment([volume], hippocampus, probabilities=True)
    theirs = worker.segment([volume], hippocampus, probabilities=True)
    assert ours.probabilities is not None
    assert theirs.probabilities is not None
    np.testing.assert_equal(dict(theirs.probabilities), dict(ours.probabilities))
    np.testing.assert_array_equal(theirs.array, ours.array)
    assert worker.segment([volume], hippocampus).probabilities is None


def test_more_than_a_node_can_hold_is_refused_at_once_and_the_worker_lives_on(
    many: Model, worker: WorkerEngine
) -> None:
    before = worker.pids
    large = Volume(np.zeros((256, 256, 256), np.float32), np.eye(4), "1.2.3")
    with pytest.raises(Fatal, match=r"299 labels for 256 × 256 × 256 voxels are 5\.0 GB, and 4\.0"):
        worker.segment([large], many, probabilities=True)
    small = worker.segment([noise_volume((16, 16, 16), (1.0, 1.0, 1.0))], many, probabilities=True)
    assert len(small.probabilities or {}) == 299
    assert worker.pids == before


class Sphere:
    """An Engine that is the surer of label 1 the brighter it is."""

    def segment(
        self,
        volumes: Sequence[Volume],
        model: Model,
        tell: Tell = tell_nobody,
        probabilities: bool = False,
    ) -> LabelMap:
        (volume,) = volumes
        sure = (volume.array / volume.array.max() * 255).astype(np.uint8)
        labels = (sure > 127).astype(np.uint8)
        frame = volume.frame_of_reference_uid
        return LabelMap(labels, volume.affine, frame, probabilities={1: sure})


@pytest.mark.parametrize("name", CASES)
def test_tilted_and_uneven_slices_get_theirs_too(name: str, tmp_path: Path) -> None:
    instances = sphere_series(*CASES[name])
    segment = Segment(1, "Sphere", TISSUE, TISSUE, (255, 0, 0))
    rules = InputRules(resample=True)
    model = made_up_model("sphere", fingerprint="f" * 64, accepts=rules, segments=(segment,))
    files = World(tmp_path, instances).segmented(model, Sphere(), FRACTIONAL)
    read = highdicom.seg.segread(BytesIO(segmentation_in(files, SegType.FRACTIONAL)))
    uids = [str(one.SOPInstanceUID) for one in instances]
    found = read.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)
    directly = np.stack([one.pixel_array / 1000 for one in instances])
    assert np.abs(found[..., 0] - directly).mean() < 0.02
    assert np.count_nonzero(found[..., 0] > 0.5) == pytest.approx(np.sum(directly > 0.5), rel=0.05)
