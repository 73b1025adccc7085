"""What is negotiated, and what `segnode check` says of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedPETImageStorage,
    KeyObjectSelectionDocumentStorage,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    UltrasoundImageStorage,
)

from node.checks import check
from node.core.config import load
from node.dicom.receiver.negotiation import KINDS, kind_of, negotiated

LEGACY_CONVERTED_CT = UID("1.2.840.10008.5.1.4.1.1.2.2")


@pytest.mark.parametrize(
    ("sop_class", "kind"),
    [
        (CTImageStorage, "volumes"),
        (LEGACY_CONVERTED_CT, "volumes"),
        (EnhancedPETImageStorage, "volumes"),
        (SecondaryCaptureImageStorage, "images"),
        (UltrasoundImageStorage, "images"),
        (SegmentationStorage, "documents"),
        (RTStructureSetStorage, "documents"),
        (KeyObjectSelectionDocumentStorage, "documents"),
        (UID("1.2.840.10008.5.1.4.34.7"), "other"),
    ],
)
def test_each_sop_class_has_a_kind(sop_class: UID, kind: str) -> None:
    assert kind_of(sop_class) == kind
    accepted = negotiated(dict.fromkeys(KINDS, True)).accepted
    assert sop_class in accepted
    assert sop_class not in negotiated(dict.fromkeys(KINDS, True) | {kind: False}).accepted


def test_deflated_is_not_negotiated_and_compressed_syntaxes_are() -> None:
    syntaxes = negotiated(dict.fromkeys(KINDS, True)).transfer_syntaxes
    assert DeflatedExplicitVRLittleEndian not in syntaxes
    assert any(UID(one).is_compressed for one in syntaxes)
    assert [UID(one).is_compressed for one in syntaxes[:3]] == [False] * 3


def _lines(folder: Path, text: str) -> dict[str, list[str]]:
    path = folder / "node.toml"
    path.write_text(text)
    found: dict[str, list[str]] = {}
    for one in check(load(path)):
        found.setdefault(one.subject, []).append(f"{one.verdict}: {one.sentence}")
    return found


def test_check_prints_the_table_and_the_marks(tmp_path: Path) -> None:
    said = _lines(
        tmp_path,
        "[node]\nlow_free_mb = 999999999\n[dicom.accept]\ndocuments = false\n"
        '[peers.viewer]\nae_title = "V"\nhost = "127.0.0.1"\nport = 1\nmay_store = false\n',
    )
    assert said["receive volumes"][0].startswith("ok: accepted: ")
    assert said["receive documents"][0].startswith("ok: refused: ")
    assert any("JPEG 2000" in line for line in said["receive syntaxes"])
    assert "viewer" in said["receive"][0]
    assert said["disk"][0].startswith("note: ")
    assert "below 999999999" in said["disk"][0]


def test_check_finds_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        folder = Path("/proc/sys")  # root may write anywhere else
    else:
        folder = tmp_path / "mine"
        folder.mkdir(mode=0o555)
    said = _lines(tmp_path, f'[node]\ndata_dir = "{folder}"\n')
    assert any(line.startswith("FAULT") and "cannot be written" in line for line in said["disk"])


def test_the_receiving_process_loads_neither_torch_nor_the_database() -> None:
    code = (
        "import sys, node.dicom.receiver.process; "
        "print([m for m in ('torch', 'sqlalchemy', 'pydantic', 'highdicom') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
