"""The README's examples, run as they stand there."""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread

from node.core import config
from tests.peers import DEMO_SERIES, REPOSITORY, NodeProcess, Orthanc, eventually, storescu
from tests.series_factory import make_series, write_series

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def _commands(verb: str) -> list[str]:
    """Lines of the README's shell blocks that begin with `verb`, comments taken off."""
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith(verb)]


@pytest.fixture(scope="module")
def node(orthanc: Orthanc, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """Holds a DELIVERED Job 1 (the demo series) and a REJECTED Job 2."""
    running = NodeProcess(tmp_path_factory.mktemp("node"), pacs_port=orthanc.dicom_port)
    running.start()
    assert storescu(DEMO_SERIES, running.port).returncode == 0
    _eventually_in_state(running, 1, "DELIVERED")
    few = write_series(make_series(slices=5), running.folder / "few")
    assert storescu(few, running.port).returncode == 0
    _eventually_in_state(running, 2, "REJECTED")
    yield running
    running.stop()


def _eventually_in_state(node: NodeProcess, job: int, state: str) -> None:
    def look() -> bool:
        jobs = {one["id"]: one["state"] for one in node.json("jobs", "list")}
        return jobs.get(job) == state

    eventually(look, 60, f"Job {job} {state}")


def _run(command: str, node: NodeProcess) -> subprocess.CompletedProcess[str]:
    """A README line with its configuration file and UID replaced by the ones of this test."""
    uid = str(dcmread(next(DEMO_SERIES.iterdir())).SeriesInstanceUID)
    line = command.replace("-c node.toml", f"-c {node.config}")
    line = re.sub(r"explain \S+", f"explain {uid}", line)
    arguments = shlex.split(line.removeprefix("segnode "))
    return subprocess.run(
        [sys.executable, "-m", "node", *arguments],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        timeout=120,
        check=False,
    )


def _ask(node: NodeProcess, beginning: str, **replaced: str) -> str:
    (command,) = _commands(f"segnode {beginning}")
    for old, new in replaced.items():
        command = command.replace(f"{old} 1", f"{old} {new}")
    done = _run(command, node)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_check_finds_no_fault(node: NodeProcess) -> None:
    lines = _ask(node, "check").splitlines()
    assert f"is run by process {node.process.pid}" in "\n".join(lines)
    # The modality of these tests only sends; nothing listens there.
    faults = [line for line in lines if not line.startswith(("ok", "note"))]
    assert faults == []


def test_the_queue_and_the_story_of_a_job_can_be_read(node: NodeProcess) -> None:
    assert "DELIVERED" in _ask(node, "jobs list")
    shown = _ask(node, "jobs show")
    assert "Job 1: DELIVERED" in shown
    assert "delivery  SEG to pacs: done, 1 attempt; stored, 0x0000" in shown
    assert "delivery  SR to pacs: done, 1 attempt; stored, 0x0000" in shown
    explained = _ask(node, "jobs explain")
    assert "38 instances from MODALITY" in explained
    assert 'route "brain MR" matched' in explained


def test_jobs_can_be_run_sent_and_cancelled_again(node: NodeProcess) -> None:
    assert "Job 2 is QUEUED now" in _ask(node, "jobs rerun", rerun="2")
    _eventually_in_state(node, 2, "REJECTED")
    assert "Job 1 is SEGMENTED now" in _ask(node, "jobs resend")
    _eventually_in_state(node, 1, "DELIVERED")
    (command,) = _commands("segnode jobs cancel")
    done = _run(command, node)
    assert done.returncode == 1
    assert "a Job that is DELIVERED cannot CANCEL" in done.stderr


def test_peers_can_be_echoed_and_sent_to(node: NodeProcess, orthanc: Orthanc) -> None:
    assert "answers" in _ask(node, "echo")
    assert "38 instances → pacs" in _ask(node, "send")


def test_models_are_listed_with_their_fingerprint(node: NodeProcess) -> None:
    assert re.search(r"fingerprint  [0-9a-f]{64}", _ask(node, "models list"))


def test_predict_writes_a_segmentation_and_a_nifti(tmp_path: Path) -> None:
    (command,) = _commands("segnode predict")
    arguments = shlex.split(command.removeprefix("segnode ").replace("-o out", f"-o {tmp_path}"))
    done = subprocess.run(
        [sys.executable, "-m", "node", *arguments],
        capture_output=True, text=True, cwd=REPOSITORY, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    endings = sorted("".join(path.suffixes[-2:]) for path in tmp_path.iterdir())
    assert endings == [".nii.gz", ".seg.dcm", ".sr.dcm"]


def test_serve_is_the_command_of_the_readme_and_the_configuration_is_valid(
    tmp_path: Path,
) -> None:
    assert _commands("segnode serve") == ["segnode serve -c node.toml"]
    (toml,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    text = "\n".join(line.removeprefix("   ") for line in toml.splitlines())
    path = tmp_path / "node.toml"
    path.write_text(text + '\n[models.hippocampus]\npath = "models/hippocampus"\n')
    assert config.load(path).routes[0].name == tomllib.loads(text)["routes"][0]["name"]


def test_every_job_command_takes_json(node: NodeProcess) -> None:
    uid = str(dcmread(next(DEMO_SERIES.iterdir())).SeriesInstanceUID)
    for arguments in (["list"], ["show", "1"], ["explain", uid], ["resend", "1"]):
        assert node.json("jobs", *arguments)
    _eventually_in_state(node, 1, "DELIVERED")
    for arguments in (["rerun", "2"], ["list", "--unrouted"]):
        assert isinstance(node.json("jobs", *arguments), list | dict)


def test_a_misspelt_setting_ends_serve_with_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text('[dicom]\naetitle = "X"\n')
    done = subprocess.run(
        [sys.executable, "-m", "node", "serve", "-c", str(path)],
        capture_output=True, text=True, env=os.environ, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == (
        f'segnode: {path}: "dicom.aetitle" is not a setting; did you mean "ae_title"?\n'
    )


def test_sigterm_ends_the_node_within_ten_seconds_and_frees_the_folder(
    orthanc: Orthanc, tmp_path: Path
) -> None:
    node = NodeProcess(tmp_path, pacs_port=orthanc.dicom_port, quiet_seconds=0.2)
    node.start()
    try:
        assert storescu(DEMO_SERIES, node.port).returncode == 0
        assert node.terminate() == 0  # waits 10 s; in the middle of closing or predicting
        node.start()
        _eventually_in_state(node, 1, "DELIVERED")
        assert json.loads(node.run("jobs", "show", "1", "--json").stdout)["attempts"] == 1
    finally:
        node.stop()
