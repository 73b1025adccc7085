"""`segnode routes test`: every condition, the same answer as the node's, and nobody is asked."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from tests.peers import DEMO_MODEL, DEMO_SERIES, REPOSITORY
from tests.series_factory import make_series, write_series

CONFIG = f"""
[node]
data_dir = "var"
[peers.pacs]
ae_title = "ORTHANC"
host = "127.0.0.1"
port = 1
[models.hippocampus]
path = "{DEMO_MODEL}"
[[routes]]
name = "thin MR"
model = "hippocampus"
send_to = ["pacs"]
when.Modality = "MR"
when.SliceThickness = {{ max = 1.5 }}
when.ContrastBolusAgent = {{ absent = true }}
[[routes]]
name = "CT"
model = "hippocampus"
send_to = ["pacs"]
when = {{ Modality = ["CT", "PT"], Rows = {{ min = 512 }}, SeriesDescription = "~(?i)t1" }}
"""


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "node.toml").write_text(CONFIG)
    return subprocess.run(
        [
            sys.executable, "-m", "node", "routes", "test", *arguments,
            "-c", str(folder / "node.toml"),
        ],
        capture_output=True, text=True, cwd=REPOSITORY, timeout=120, check=False,
    )  # fmt: skip


def test_each_series_shows_what_matches_and_every_condition_that_failed(tmp_path: Path) -> None:
    thick = make_series(slices=20, spacing_mm=(4.0, 1.0, 1.0))
    for one in thick:
        one.ContrastBolusAgent = "Gd"
    write_series(thick, tmp_path / "in" / "thick")
    gap = make_series(slices=20, spacing_mm=(1.0, 1.0, 1.0), name="gap")
    del gap[9]
    write_series(gap, tmp_path / "in" / "gap")
    (tmp_path / "in" / "readme.txt").write_text("no DICOM")
    done = _run(tmp_path, str(tmp_path / "in"), "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = {one["series_instance_uid"]: one for one in json.loads(done.stdout)}
    assert len(found) == 2
    first, second = found[str(thick[0].SeriesInstanceUID)]["routes"]
    assert not first["matches"]
    assert first["failed"] == [
        {"channel": None, "keyword": "SliceThickness", "found": '"4.0"', "wanted": "at most 1.5"},
        {"channel": None, "keyword": "ContrastBolusAgent", "found": '"Gd"', "wanted": "absent"},
    ]
    assert [one["keyword"] for one in second["failed"]] == ["Modality", "Rows"]
    matching, _ = found[str(gap[0].SeriesInstanceUID)]["routes"]
    assert matching["matches"]
    assert "unequal spacing: 2.00 mm between slice 9" in matching["model_refuses"]
    assert not (tmp_path / "var").exists()


def test_the_text_is_for_people(tmp_path: Path) -> None:
    done = _run(tmp_path, str(DEMO_SERIES))
    assert done.returncode == 0, done.stderr
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert 'route "thin MR" matches → hippocampus → pacs' in lines
    assert "hippocampus would take it" in lines
    assert 'route "CT" does not match:' in lines
    assert 'Modality is "MR", not one of "CT", "PT"' in lines


def test_a_folder_without_dicom_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = _run(tmp_path, str(tmp_path / "empty"))
    assert done.returncode == 1
    assert "there are no DICOM files of a Series in it" in done.stderr


def test_what_the_receiver_would_refuse_is_said_and_routed_nowhere(tmp_path: Path) -> None:
    blank = make_series(slices=2, name="blank")
    for one in blank:
        one.StudyInstanceUID = ""
    write_series(blank, tmp_path / "in" / "blank")
    other = make_series(slices=1, name="other")
    other[0].SOPClassUID = other[0].file_meta.MediaStorageSOPClassUID = UID("1.2.3")
    write_series(other, tmp_path / "in" / "other")
    deflated = make_series(slices=1, name="deflated")
    deflated[0].file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    write_series(deflated, tmp_path / "in" / "deflated")
    mixed = make_series(slices=20, spacing_mm=(1.0, 1.0, 1.0), name="mixed")
    mixed[0].StudyInstanceUID = "not a UID"
    write_series(mixed, tmp_path / "in" / "mixed")
    lines = [line.strip() for line in _run(tmp_path, str(tmp_path / "in")).stdout.splitlines()]
    said = [line for line in lines if line.startswith("the receiver would refuse")]
    assert sorted(said) == [
        "the receiver would refuse 1 of 20: 0xC000: StudyInstanceUID is not a UID: 'not a UID'",
        "the receiver would refuse it: 0xC000: StudyInstanceUID is missing or empty",
        "the receiver would refuse it: SOP Class 1.2.3 is not negotiated: it is no Storage SOP "
        "Class that the Standard knows",
        "the receiver would refuse it: transfer syntax Deflated Explicit VR Little Endian is not "
        "negotiated: the sender must convert it",
    ]
    assert sum("matches" in line for line in lines) == 1  # of mixed alone
    assert f"Series {other[0].SeriesInstanceUID} (MR, 1 instance)" in lines
