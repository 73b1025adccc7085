"""The two marks of free space: told once when they are passed, and once when there is room."""

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.dicom.receiver.reports import Reports
from node.dicom.receiver.space import FreeSpace
from node.dicom.receiver.status import OUT_OF_RESOURCES, Refused

KB = 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_each_mark_is_told_once_each_way(small_disk: Path) -> None:
    lines, theirs = os.pipe()
    wakeup = os.eventfd(0)
    space = FreeSpace(small_disk, 200 * KB, 500 * KB, Reports(theirs, wakeup))
    filler = small_disk / "filler"
    for size in (0, 600, 900, 910, 900, 600, 0):
        filler.write_bytes(bytes(size * KB))
        space.look()
        space.look()
        if size == 910:
            with pytest.raises(Refused) as refused:
                space.require()
            assert refused.value.status == OUT_OF_RESOURCES
    os.close(theirs)
    with os.fdopen(lines) as told:
        events = [json.loads(line)["event"] for line in told]
    os.close(wakeup)
    assert [event.split(":")[0] for event in events] == [
        "the disk is getting full",
        "the disk is full",
        "the disk is no longer full",
        "the disk has room again",
    ]


def test_a_folder_that_is_away_for_a_while_is_watched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.dicom.receiver.space._WATCH_SECONDS", 0.02)
    lines, theirs = os.pipe()
    folder = tmp_path / "disk"
    space = FreeSpace(folder, 0, 1 << 62, Reports(theirs, os.eventfd(0)))
    threading.Thread(target=space.watch, daemon=True).start()
    told = os.fdopen(lines)
    assert json.loads(told.readline())["event"] == "free space cannot be read"
    folder.mkdir()
    events = (json.loads(line)["event"] for line in told)
    assert next(one for one in events if "cannot" not in one) == "the disk is getting full"


def test_many_associations_together_overshoot_no_more_than_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is the operating system's answer: 100 MB are free, 60 MB are to stay so."""
    free = 100 << 20
    answer = os.statvfs(tmp_path)

    def statvfs(_: Path) -> os.statvfs_result:
        return os.statvfs_result((1, 1, answer[2], free, free, *answer[5:]))

    monkeypatch.setattr(os, "statvfs", statvfs)
    space = FreeSpace(tmp_path, 60 << 20, 0, Reports(os.open(os.devnull, os.O_WRONLY), -1))
    refused = 0
    for _ in range(20):
        for _ in range(25):  # each a megabyte of an Instance of its own
            try:
                space.take(1 << 20)
                free -= 1 << 20
            except Refused:
                refused += 1
    assert (60 << 20) - free <= 17 << 20
    assert refused > 400
