"""The node as a hospital with TLS runs it: a modality by TLS, a commitment asked and answered."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pynetdicom import AE, evt

from node.core.commitment import SOP_CLASS, SOP_INSTANCE
from tests.certificates import Authority, Pair
from tests.peers import DEMO_SERIES, NodeProcess, Orthanc, eventually, free_port, storescu, tool


@dataclass
class Hospital:
    """The node, a modality's certificate, and the port where the modality hears reports."""

    node: NodeProcess
    authority: Authority
    modality: Pair
    tls_port: int
    modality_port: int


@pytest.fixture(scope="module")
def hospital(orthanc: Orthanc, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    folder = tmp_path_factory.mktemp("node")
    authority = Authority(folder / "certificates")
    ours, modality = authority.signs("node"), authority.signs("modality")
    tls_port, modality_port = free_port(), free_port()
    extra = f"""
[dicom.tls]
certificate = "{ours.certificate}"
key = "{ours.key}"
ca = "{authority.certificate}"
port = {tls_port}
"""
    of_the_modality = {
        "NODE_PEERS__MODALITY__TLS": "true",
        "NODE_PEERS__MODALITY__PORT": str(modality_port),
    }
    running = NodeProcess(folder, pacs_port=orthanc.dicom_port, extra=extra)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in of_the_modality.items():
            patch.setenv(name, value)
        running.start()
        yield Hospital(running, authority, modality, tls_port, modality_port)
    running.stop()


def _storescu_by_tls(hospital: Hospital, folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [
            *[tool("storescu"), "-v", "-aet", "MODALITY", "-aec", "SEGNODE"],
            *["+tls", str(hospital.modality.key), str(hospital.modality.certificate)],
            *["+cf", str(hospital.authority.certificate), "+sd", "+r"],
            *["127.0.0.1", str(hospital.tls_port), str(folder)],
        ],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"TCP_NODELAY": "1"},
        check=False,
    )


def test_a_series_by_tls_comes_back_as_a_segmentation_and_plain_is_turned_away(
    hospital: Hospital, orthanc: Orthanc
) -> None:
    refused = storescu(DEMO_SERIES, hospital.node.port)
    assert refused.returncode != 0
    told = hospital.node.wait_for_log("association rejected")
    assert "tls = true" in told["reason"]
    sent = _storescu_by_tls(hospital, DEMO_SERIES)
    assert sent.returncode == 0, sent.stderr
    (one,) = eventually(orthanc.segmentations, 60, "SEG in Orthanc")
    assert one.StudyInstanceUID == dcmread(next(DEMO_SERIES.iterdir())).StudyInstanceUID


def test_a_modality_that_asks_by_tls_hears_by_tls_what_is_committed_to(hospital: Hospital) -> None:
    sent = _storescu_by_tls(hospital, DEMO_SERIES)
    assert sent.returncode == 0, sent.stderr
    held = [dcmread(path, stop_before_pixels=True) for path in sorted(DEMO_SERIES.iterdir())]
    heard: list[Dataset] = []

    def on_report(event: evt.Event) -> tuple[int, None]:
        heard.append(event.event_information)
        return 0x0000, None

    server_side = hospital.authority.server(hospital.modality)
    ae = AE(ae_title="MODALITY")
    ae.add_supported_context(SOP_CLASS, scu_role=True, scp_role=True)
    handlers: Any = [(evt.EVT_N_EVENT_REPORT, on_report)]
    address = ("127.0.0.1", hospital.modality_port)
    server = ae.start_server(address, block=False, evt_handlers=handlers, ssl_context=server_side)
    assert server is not None
    try:
        _ask(hospital, held)
        (told,) = eventually(lambda: heard, 30, "report of commitment")
    finally:
        server.shutdown()
    committed = {one.ReferencedSOPInstanceUID for one in told.ReferencedSOPSequence}
    assert committed == {one.SOPInstanceUID for one in held}
    assert [one.FailureReason for one in told.FailedSOPSequence] == [0x0112]


def _ask(hospital: Hospital, held: Sequence[Dataset]) -> None:
    """Everything that is held, and one Instance that never was."""
    asked = Dataset()
    asked.TransactionUID = "1.2.3.4"
    asked.ReferencedSOPSequence = []
    for uid in [*(one.SOPInstanceUID for one in held), "1.2.3.4.5"]:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = held[0].SOPClassUID, uid
        asked.ReferencedSOPSequence.append(item)
    ae = AE(ae_title="MODALITY")
    ae.add_requested_context(SOP_CLASS)
    secure = (hospital.authority.client(hospital.modality), "localhost")
    one = ae.associate("127.0.0.1", hospital.tls_port, ae_title="SEGNODE", tls_args=secure)
    assert one.is_established
    answer, _ = one.send_n_action(asked, 1, SOP_CLASS, SOP_INSTANCE)
    assert answer.Status == 0x0000
    one.release()


def test_check_says_who_has_to_show_a_certificate(hospital: Hospital) -> None:
    done = hospital.node.run("check", check=False)
    assert "who comes by TLS shows a certificate signed by" in done.stdout
    assert f"127.0.0.1:{hospital.tls_port} (TLS)" in done.stdout
