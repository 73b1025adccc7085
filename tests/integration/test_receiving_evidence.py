"""How an Association ended, where not all that was sent over it could be kept."""

import json
from pathlib import Path

import pytest
from pydicom import Dataset

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


def _ending(here: Receiving) -> str:
    (end,) = here.wait_for_endings()
    return str(json.loads(end.read_text())["ending"])


def _statuses(here: Receiving, instances: list[Dataset]) -> list[int]:
    with RawPeer(here.port) as peer:
        peer.associate()
        found = []
        for one in instances:
            peer.send(store_message(one))
            found.append(peer.status())
        peer.release()
    return found


def test_a_disk_that_fills_amid_a_series_leaves_an_incomplete_association(tmp_path: Path) -> None:
    series = make_series(slices=3)
    series[1].add_new(0x00091001, "OB", b"\0" * 100_000)  # larger than what is taken: A700, too
    with receiving(tmp_path, max_instance_bytes=90_000) as here:
        assert _statuses(here, series) == [0x0000, 0xA700, 0x0000]
        assert _ending(here) == "incomplete"


def test_half_an_instance_and_then_a_release_leaves_an_incomplete_association(
    tmp_path: Path,
) -> None:
    first, second = make_series(slices=2)
    with receiving(tmp_path) as here:
        with RawPeer(here.port) as peer:
            peer.associate()
            peer.send(store_message(first))
            assert peer.status() == 0x0000
            command = store_command(str(second.SOPInstanceUID))
            peer.send(p_data(pdv(STORE, command, command=True, last=True)))
            half = encoded(second)[:1000]
            peer.send(p_data(pdv(STORE, half, command=False, last=False)))
            peer.release()
        assert _ending(here) == "incomplete"
        assert len(list(here.inbox.incoming())) == 1


@pytest.mark.parametrize("amid", [False, True])
def test_a_sender_that_goes_silent_is_told_apart_from_one_that_aborts(
    tmp_path: Path, amid: bool
) -> None:
    first, second = make_series(slices=2)
    with receiving(tmp_path, idle_seconds=0.5) as here, RawPeer(here.port) as peer:
        peer.associate()
        peer.send(store_message(first))
        assert peer.status() == 0x0000
        if amid:
            peer.send(store_message(second)[:-1000])
        assert peer.receive()[0] == ABORT
        assert _ending(here) == ("aborted" if amid else "idle")


def test_an_association_that_a_stop_ends_is_aborted_not_idle(tmp_path: Path) -> None:
    with receiving(tmp_path) as here, RawPeer(here.port) as peer:
        peer.associate()
        peer.send(store_message(make_series(slices=1)[0]))
        assert peer.status() == 0x0000
        here.receiver.stop()
        assert _ending(here) == "aborted"
