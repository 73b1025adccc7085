"""A model of two channels, for real: storescu → segnode serve → nnU-Net → Orthanc."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset

from node.core.uids import derive_uid
from tests.model_factory import make_model_folder
from tests.peers import NodeProcess, Orthanc, eventually, storescu
from tests.series_factory import make_series, write_series

WAIT_SECONDS = 6
ROUTE = f"""
[models.both]
path = "both"
[[routes]]
name = "T1 and FLAIR"
model = "both"
send_to = ["pacs"]
wait_seconds = {WAIT_SECONDS}
least_verdict = "unproven"
channels."channel 0" = {{ Modality = "MR", SeriesDescription = "~^T1" }}
channels."channel 1" = {{ Modality = "MR", SeriesDescription = "~^FLAIR" }}
"""


@pytest.fixture(scope="module")
def node(orthanc: Orthanc, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    folder = tmp_path_factory.mktemp("node")
    make_model_folder(folder / "both", channels=2)
    none = '{ Modality = "XX" }'
    running = NodeProcess(folder, pacs_port=orthanc.dicom_port, extra=ROUTE, when=none)
    running.start()
    yield running
    running.stop()


def _series(study: str, description: str, frame: str = "frame") -> list[Dataset]:
    seed = sum(description.encode())
    voxels = np.random.default_rng(seed).integers(0, 900, (20, 24, 16), np.uint16)
    instances = make_series(name=f"{study} {description}", voxels=voxels)
    for one in instances:
        one.SeriesDescription = description
        one.StudyInstanceUID = derive_uid(study, "study")
        one.FrameOfReferenceUID = derive_uid(study, frame)
    return instances


def _send(node: NodeProcess, instances: list[Dataset], folder: Path) -> str:
    assert storescu(write_series(instances, folder), node.port).returncode == 0
    return str(instances[0].SeriesInstanceUID)


def _jobs(node: NodeProcess, uid: str) -> list[dict[str, Any]]:
    return [job for job in node.json("jobs", "list") if uid in job["series_instance_uids"]]


def _job_in(node: NodeProcess, uid: str, state: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        return next((job for job in _jobs(node, uid) if job["state"] == state), None)

    return eventually(look, 60, f"{state} job of {uid}")


@pytest.mark.parametrize("first", ["T1", "FLAIR"])
def test_two_series_of_a_study_give_one_segmentation_on_the_first(
    first: str, node: NodeProcess, orthanc: Orthanc, tmp_path: Path
) -> None:
    study = f"whole, {first} first"
    uids = {}
    for description in sorted(("T1", "FLAIR"), key=lambda one: one != first):
        instances = _series(study, description)
        uids[description] = _send(node, instances, tmp_path / description)
        time.sleep(2.5)  # each closes on its own
    job = _job_in(node, uids["T1"], "DELIVERED")
    assert job["series_instance_uids"] == [uids["T1"], uids["FLAIR"]]
    assert len(_jobs(node, uids["FLAIR"])) == 1
    (found,) = (
        one for one in orthanc.segmentations() if one.StudyInstanceUID == derive_uid(study, "study")
    )
    referenced = [one.SeriesInstanceUID for one in found.ReferencedSeriesSequence]
    assert referenced == [uids["T1"], uids["FLAIR"]]
    assert found.FrameOfReferenceUID == derive_uid(study, "frame")


def test_a_missing_channel_is_refused_after_the_wait_and_its_coming_makes_a_job(
    node: NodeProcess, tmp_path: Path
) -> None:
    flair = _send(node, _series("half", "FLAIR"), tmp_path / "flair")
    refused = _job_in(node, flair, "REJECTED")
    study = derive_uid("half", "study")
    assert refused["reason"] == (
        f"no Series for channel channel 0 of study {study} came within {WAIT_SECONDS} s; "
        f"it has channel 1: {flair}"
    )
    assert node.run("jobs", "rerun", str(refused["id"]), check=False).returncode == 1
    _send(node, _series("half", "T1"), tmp_path / "t1")
    job = _job_in(node, flair, "DELIVERED")
    assert job["supersedes"] == refused["id"]
    (story,) = node.json("jobs", "explain", flair)
    assert [one["channel"] for one in story["channels"]] == [1]
    assert story["channels"][0]["done_at"] is not None


def test_without_a_common_frame_of_reference_the_job_is_refused(
    node: NodeProcess, tmp_path: Path
) -> None:
    t1 = _send(node, _series("apart", "T1"), tmp_path / "t1")
    _send(node, _series("apart", "FLAIR", frame="another"), tmp_path / "flair")
    job = _job_in(node, t1, "REJECTED")
    assert "have no common Frame of Reference" in job["reason"]


def test_a_configuration_whose_channels_are_not_the_models_is_refused(
    node: NodeProcess, tmp_path: Path
) -> None:
    wrong = node.config.with_name("wrong.toml")
    text = node.config.read_text().replace('channels."channel 1"', 'channels."chanel 1"')
    wrong.write_text(text)
    other = NodeProcess(tmp_path, pacs_port=1)
    other.config = wrong
    done = other.run("check", check=False)
    assert done.returncode == 1
    assert 'has no channel "chanel 1"; did you mean "channel 1"?' in done.stdout


def test_purge_beside_the_node_deletes_what_was_delivered_and_the_story_says_so(
    node: NodeProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    t1 = _send(node, _series("purged", "T1"), tmp_path / "t1")
    flair = _send(node, _series("purged", "FLAIR"), tmp_path / "flair")
    job = _job_in(node, t1, "DELIVERED")
    assert node.json("purge", "--dry-run") == []  # seven days are not over
    monkeypatch.setenv("NODE_RETENTION__DELIVERED_DAYS", "0.000001")
    would = {(one["what"], one["name"]) for one in node.json("purge", "--dry-run")}
    assert would >= {("series", t1), ("series", flair), ("result", str(job["id"]))}
    assert {(one["what"], one["name"]) for one in node.json("purge")} == would
    assert not (node.data_dir / "instances" / f"s{t1}").exists()
    (story,) = node.json("jobs", "explain", t1)
    assert story["purged_at"] is not None
    assert "PURGE" in [event["event"] for event in story["jobs"][0]["history"]]
    resent = node.run("jobs", "resend", str(job["id"]), check=False)
    assert resent.returncode == 1
    assert "are deleted" in resent.stderr


def test_a_series_that_is_routed_again_gets_jobs_of_new_models_only(
    node: NodeProcess, tmp_path: Path
) -> None:
    t1 = _send(node, _series("again", "T1"), tmp_path / "t1")
    _send(node, _series("again", "FLAIR"), tmp_path / "flair")
    before = _job_in(node, t1, "DELIVERED")
    wanted = '{ SeriesDescription = "~^T1" }'
    changed = node.config.read_text().replace('when = { Modality = "XX" }', f"when = {wanted}")
    node.config.write_text(changed)
    assert node.terminate() == 0
    node.start()
    assert node.json("jobs", "rerun", t1) == {"series_instance_uid": t1, "state": "open"}

    def closed_again() -> dict[str, Any] | None:
        (story,) = node.json("jobs", "explain", t1)
        return story if story["closed_at"] else None

    story = eventually(closed_again, 30, "Series closed again")
    assert story["routing"] == (
        'route "brain MR" matched; route "T1 and FLAIR" matched, channel channel 0'
    )
    assert sorted(job["model"] for job in _jobs(node, t1)) == ["both", "hippocampus"]
    (same,) = (job for job in _jobs(node, t1) if job["model"] == "both")
    assert (same["id"], same["state"]) == (before["id"], "DELIVERED")
    unknown = node.run("jobs", "rerun", "1.2.3", check=False)
    assert unknown.returncode == 1
    assert "no Series has this UID" in unknown.stderr
