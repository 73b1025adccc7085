"""DELIVERED means confirmed: the node asks, Orthanc reports on an association of its own."""

from pathlib import Path

import pytest

from tests.peers import DEMO_SERIES, NodeProcess, Orthanc, eventually, storescu


def test_a_result_is_delivered_once_the_pacs_has_reported_that_it_keeps_it(
    orthanc: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODE_PEERS__PACS__COMMITMENT", "true")
    node = NodeProcess(tmp_path / "node", pacs_port=orthanc.dicom_port)
    orthanc.knows("segnode", "SEGNODE", node.port)
    node.start()
    try:
        assert storescu(DEMO_SERIES, node.port).returncode == 0

        def delivered() -> object:
            jobs = node.json("jobs", "list")
            return jobs and jobs[0]["state"] == "DELIVERED" and jobs[0]

        job = eventually(delivered, 60, "delivery")
        assert isinstance(job, dict)
        answers = {one["answer"] for one in job["deliveries"]}
        assert answers == {"stored, 0x0000; confirmed by Storage Commitment"}
        told = node.wait_for_log("commitment reported")
        assert "ORTHANC commits to" in told["detail"]
        assert node.terminate() == 0
    finally:
        node.stop()
