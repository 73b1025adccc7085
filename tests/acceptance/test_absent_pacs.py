"""A PACS that is down when the result is ready gets it when it is back."""

from pathlib import Path

from tests.peers import DEMO_SERIES, NodeProcess, Orthanc, eventually, storescu


def test_a_result_is_delivered_once_the_pacs_is_back_and_the_backoff_can_be_seen(
    tmp_path: Path,
) -> None:
    orthanc = Orthanc(tmp_path / "orthanc")
    node = NodeProcess(tmp_path / "node", pacs_port=orthanc.dicom_port)
    node.start()
    try:
        assert storescu(DEMO_SERIES, node.port).returncode == 0

        def waiting() -> object:
            jobs = node.json("jobs", "list")
            waits = jobs and jobs[0]["deliveries"]  # there are none before there is a result
            return waits and waits[0]["attempts"] >= 3 and jobs[0]

        job = eventually(waiting, 90, "third attempt")
        assert isinstance(job, dict)
        assert job["state"] == "SEGMENTED"
        text = node.run("jobs", "show", str(job["id"])).stdout
        assert "cannot be reached; next try 20" in text
        history = node.json("jobs", "show", str(job["id"]))["history"]
        assert [event["event"] for event in history][:5] == [
            "QUEUE", "SEGMENT", "RETRY", "RETRY", "RETRY",
        ]  # fmt: skip
        assert {event["detail"].partition(" to ")[0] for event in history[2:]} == {"SEG", "SR"}

        orthanc.start()
        (segmentation,) = eventually(orthanc.segmentations, 60, "SEG in Orthanc")
        assert segmentation.SOPInstanceUID == job["result"]["sop_instance_uid"]
        assert node.terminate() == 0
    finally:
        node.stop()
        orthanc.stop()
