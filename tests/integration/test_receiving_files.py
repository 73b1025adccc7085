"""The files of received Instances: who may read them, and when they go to the disk."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faulty_disk import FaultyDisk
from tests.large import send_large
from tests.receiving import RawPeer, receiving, store_message
from tests.series_factory import make_series


@pytest.fixture
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """Of the test's process, and of those that it starts."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077], indirect=True)
def test_what_is_received_is_nobody_elses_to_read(tmp_path: Path, umask: int) -> None:
    with receiving(tmp_path) as here:
        with RawPeer(here.port) as peer:
            peer.associate()
            good, odd = make_series(slices=2)
            odd.SeriesInstanceUID = ""
            for one, status in ((good, 0x0000), (odd, 0xC000)):
                peer.send(store_message(one))
                assert peer.status() == status
            peer.release()
        here.wait_for_endings()
        files = [path for path in tmp_path.rglob("*.*") if path.is_file()]
    assert {path.suffix for path in files} == {".dcm", ".txt", ".end"}
    assert {path.stat().st_mode & 0o777 for path in files} == {0o640 & ~umask}


def test_a_large_instance_goes_to_the_disk_while_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that its answer does not wait for all of it; the disk says no only to fdatasync."""
    disk = FaultyDisk(tmp_path / "disk", monkeypatch)
    disk.fail("fdatasync")
    with receiving(tmp_path / "var") as here:
        assert send_large(here.port, "small", 60_000_000) == 0x0000
        assert send_large(here.port, "large", 300_000_000) == 0x0110
        disk.heal("fdatasync")
        assert send_large(here.port, "large", 300_000_000) == 0x0000
