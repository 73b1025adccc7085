"""What cannot be kept is answered, leaves nothing behind, and the Association lives on."""

from pathlib import Path

import pytest

from tests.faulty_disk import FaultyDisk
from tests.receiving import (
    RawPeer,
    Receiving,
    receiving,
    store_message,
)
from tests.series_factory import make_series


def _open_files(here: Receiving) -> list[str]:
    """What the receiving process has open in its data folder."""
    found = []
    for one in Path(f"/proc/{here.receiver.pid}/fd").iterdir():
        try:
            found.append(str(one.readlink()))
        except FileNotFoundError:  # closed meanwhile
            continue
    return [name for name in found if name.startswith(str(here.folder))]


@pytest.mark.parametrize("call", ["pread", "statvfs", "writev", "fsync"])
def test_a_disk_that_fails_is_answered_0110_and_the_association_lives_on(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FaultyDisk(tmp_path / "disk", monkeypatch)
    first, second, third = make_series(slices=3)
    with receiving(tmp_path / "var") as here, RawPeer(here.port) as peer:
        peer.associate()
        peer.send(store_message(first))
        assert peer.status() == 0x0000
        disk.fail(call)
        peer.send(store_message(second))
        assert peer.status() == 0x0110
        assert list(here.folder.rglob("*.part")) == []
        assert _open_files(here) == []
        disk.heal(call)
        peer.send(store_message(third))
        assert peer.status() == 0x0000
        peer.release()
        assert len(list(here.inbox.incoming())) == 2
