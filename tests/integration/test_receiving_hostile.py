"""Every hostile file by C-STORE: no crash, no hang, no growth, and the next series is unharmed."""

from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import CTImageStorage

from node.dicom.inbox import data_set_offset
from tests.peers import storescu
from tests.receiving import STORE, RawPeer, p_data, pdv, receiving, store_command
from tests.series_factory import make_series, write_series

GROWTH_MB = 15.0
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def _data_set_and_uid(path: Path) -> tuple[bytes, str]:
    raw = path.read_bytes()
    try:
        uid = str(dcmread(path, force=True, stop_before_pixels=True).SOPInstanceUID)
    except Exception:  # hostile: pydicom raises almost anything
        uid = "1.2.3"
    return raw[data_set_offset(raw) :], uid if uid.replace(".", "").isdigit() else "1.2.3"


def _store(peer: RawPeer, data_set: bytes, uid: str) -> int:
    command = store_command(uid, CTImageStorage)
    peer.send(p_data(pdv(STORE, command, command=True, last=True)))
    size = 100_000
    for offset in range(0, len(data_set) or 1, size):
        last = offset + size >= len(data_set)
        value = data_set[offset : offset + size]
        peer.send(p_data(pdv(STORE, value, command=False, last=last)))
    return peer.status()


def test_every_hostile_file_is_answered_and_the_next_series_is_kept(
    shared_data: Path, tmp_path: Path
) -> None:
    files = [path for path in sorted((shared_data / "hostile").rglob("*")) if path.is_file()]
    assert len(files) > 100
    with receiving(tmp_path / "var") as here:
        pid = here.receiver.pid
        for number in range(2):
            with RawPeer(here.port) as peer:
                peer.associate(CTImageStorage)
                statuses = {_store(peer, *_data_set_and_uid(path)) for path in files}
                peer.release()
            if number == 0:
                before = here.resident_mb()
        assert {0x0000, 0xC000} <= statuses <= {0x0000, 0x0117, 0xA900, 0xC000}
        assert here.resident_mb() - before < GROWTH_MB
        assert here.receiver.pid == pid
        good = write_series(make_series(slices=20), tmp_path / "good")
        already = len(list(here.inbox.incoming()))
        assert storescu(good, here.port).returncode == 0
        assert len(list(here.inbox.incoming())) - already == 20
