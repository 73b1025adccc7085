"""What cannot be kept is answered, leaves nothing behind, and the Association lives on."""

import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.faulty_disk import FaultyDisk
from tests.peers import eventually
from tests.receiving import (
    ABORT,
    STORE,
    RawPeer,
    Receiving,
    encoded,
    p_data,
    pdv,
    receiving,
    store_command,
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


def _store(peer: RawPeer, data_set: bytes, uid: str = "1.2.3") -> int:
    peer.send(p_data(pdv(STORE, store_command(uid), command=True, last=True)))
    for offset in range(0, len(data_set), 100_000):
        last = offset + 100_000 >= len(data_set)
        piece = data_set[offset : offset + 100_000]
        peer.send(p_data(pdv(STORE, piece, command=False, last=last)))
    return peer.status()


def test_an_unreadable_object_that_is_sent_again_and_again_is_kept_aside_once(
    tmp_path: Path,
) -> None:
    cut = encoded(make_series(slices=1)[0])[:-300]
    for _ in range(2):  # also by the next process
        with receiving(tmp_path) as here:
            for calling in ("ONE", "TWO"):
                with RawPeer(here.port) as peer:
                    peer.associate(calling=calling)
                    assert [_store(peer, cut) for _ in range(3)] == [0xC000] * 3
                    peer.release()
            assert here.inbox.aside_count() == 1
    assert len(list((tmp_path / "aside").iterdir())) == 2
    (why,) = (tmp_path / "aside").glob("*.txt")
    assert "ONE" in why.read_text()


def test_what_is_set_aside_has_a_bound_and_the_log_says_so_once(tmp_path: Path) -> None:
    with capture_logs() as logs, receiving(tmp_path, max_aside_bytes=200_000) as here:
        with RawPeer(here.port) as peer:
            peer.associate()
            assert [_store(peer, os.urandom(60_000)) for _ in range(8)] == [0xC000] * 8
            peer.release()
        assert here.inbox.aside_count() == 3
        assert list(tmp_path.rglob("*.part")) == []
        here.wait_for_endings()
    told = [one for one in logs if "aside" in one["event"]]
    assert [one["max_aside_mb"] for one in told] == [0]


def test_an_endless_stream_of_garbage_is_aborted_after_1000_in_a_row(tmp_path: Path) -> None:
    good = store_message(make_series(slices=1)[0])
    with receiving(tmp_path, max_aside_bytes=0) as here:
        with RawPeer(here.port) as peer:
            peer.associate()
            assert [_store(peer, b"garbage") for _ in range(600)] == [0xC000] * 600
            peer.send(good)
            assert peer.status() == 0x0000  # one that can be read begins the count anew
            assert [_store(peer, b"garbage") for _ in range(1000)] == [0xC000] * 1000
            assert peer.receive()[0] == ABORT
        assert '"ending": "aborted"' in here.wait_for_endings()[0].read_text()


def test_a_flood_of_refusals_is_a_few_lines_in_the_log_and_one_sum(tmp_path: Path) -> None:
    with capture_logs() as logs, receiving(tmp_path, echo_only=["VIEWER"]) as here:
        for calling in ("ONE", "VIEWER"):
            with RawPeer(here.port) as peer:
                peer.associate(calling=calling)
                assert {_store(peer, b"garbage", f"1.2.{n}") for n in range(30)} <= {0xC000, 0x0124}
                peer.release()
        here.wait_for_endings(2)
        eventually(
            lambda: (
                sum("released" in one["event"] or "incomplete" in one["event"] for one in logs) == 2
            ),
            5,
            "both ends in the log",
        )
    refused = [one for one in logs if one["event"] == "instance refused"]
    assert [(one["calling_ae_title"], one["status"]) for one in refused] == [
        ("ONE", "0xC000"),
        ("VIEWER", "0x0124"),
    ]
    assert [one["refused"] for one in logs if "refused" in one] == [30, 30]
