"""aside/ as the receiver keeps it: bounded, nothing twice, and what a person deletes makes room."""

import json
import os
from pathlib import Path

import pytest

from node.dicom.receiver import aside as module
from node.dicom.receiver.aside import Aside
from node.dicom.receiver.reports import Reports
from node.dicom.receiver.spool import Clock


def _keep(aside: Aside, folder: Path, data_set: bytes) -> str | None:
    half = folder / "x.part"
    half.write_bytes(b"head" + data_set)
    descriptor = os.open(half, os.O_RDWR)
    try:
        return aside.keep(half, descriptor, 4, "it is odd")
    finally:
        os.close(descriptor)


def test_what_a_person_deletes_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK_AGAIN_SECONDS", 0.0)
    folder = tmp_path / "aside"
    folder.mkdir()
    lines, theirs = os.pipe()
    aside = Aside(folder, 20_000, Clock(tmp_path), Reports(theirs, os.eventfd(0)))
    first, second = bytes(6_000), b"x" * 6_000
    name = _keep(aside, tmp_path, first)
    assert name is not None
    assert (folder / name).read_bytes() == b"head" + first
    assert _keep(aside, tmp_path, first) == name
    assert _keep(aside, tmp_path, second) is None
    assert _keep(aside, tmp_path, second) is None
    for path in folder.iterdir():
        path.unlink()
    assert _keep(aside, tmp_path, second) is not None
    assert _keep(aside, tmp_path, first) is None
    os.close(theirs)
    with os.fdopen(lines) as told:
        levels = [json.loads(line)["level"] for line in told]
    assert levels == ["warning", "info", "warning"]


def test_a_twin_that_was_deleted_is_kept_again(tmp_path: Path) -> None:
    folder = tmp_path / "aside"
    folder.mkdir()
    _, theirs = os.pipe()
    aside = Aside(folder, 1 << 20, Clock(tmp_path), Reports(theirs, os.eventfd(0)))
    name = _keep(aside, tmp_path, b"once")
    assert name is not None
    (folder / name).unlink()
    again = _keep(aside, tmp_path, b"once")
    assert again is not None
    assert again != name
