"""What a peer's answer means: stored, later, or never without a person."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom.uid import CTImageStorage, MRImageStorage
from pynetdicom import AE, evt
from pynetdicom.events import Event
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from node.core.errors import Fatal, Temporary
from node.core.names import AETitle
from node.dicom.scu.instance import NotSendable, dicom_files, opened
from node.dicom.scu.peer import Peer
from node.dicom.scu.storage import echo, send
from tests.peers import free_port
from tests.series_factory import make_series, write_series

US = AETitle("SEGNODE")


@contextmanager
def _peer(
    status: int = 0x0000,
    *,
    accepts: str = MRImageStorage,
    calling: str | None = None,
    aborts: bool = False,
) -> Iterator[Peer]:
    def answer(event: Event) -> int:
        if aborts:
            event.assoc.abort()
        return status

    ae = AE(ae_title="PACS")
    ae.add_supported_context(accepts)
    ae.add_supported_context(Verification)
    if calling:
        ae.require_calling_aet = [calling]
    server = ae.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, answer)]
    )
    assert server is not None
    try:
        yield Peer("pacs", AETitle("PACS"), "127.0.0.1", int(server.server_address[1]), 5.0)
    finally:
        server.shutdown()


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return dicom_files(write_series(make_series(slices=2), tmp_path / "series"))


@pytest.mark.parametrize("status", [0x0000, 0xB000, 0xB006, 0xB007])
def test_success_and_its_warnings_mean_stored(status: int, files: list[Path]) -> None:
    with _peer(status) as peer:
        assert send(files, peer, US).startswith(f"stored, 0x{status:04X}")


@pytest.mark.parametrize("status", [0xA700, 0xA701, 0x0110])
def test_out_of_resources_and_a_processing_failure_are_for_later(
    status: int, files: list[Path]
) -> None:
    with _peer(status) as peer, pytest.raises(Temporary, match=f"0x{status:04X}"):
        send(files, peer, US)


@pytest.mark.parametrize("status", [0xA900, 0xC000, 0x0122, 0x0124])
def test_any_other_refusal_is_for_a_person(status: int, files: list[Path]) -> None:
    with _peer(status) as peer, pytest.raises(Fatal, match=f"0x{status:04X}.*resend"):
        send(files, peer, US)


def test_a_peer_that_does_not_accept_the_sop_class_is_named_with_it(files: list[Path]) -> None:
    with _peer(accepts=CTImageStorage) as peer, pytest.raises(Fatal, match="MR Image Storage"):
        send(files, peer, US)


def test_a_peer_that_rejects_us_for_good_is_for_a_person(files: list[Path]) -> None:
    with _peer(calling="ANOTHER") as peer, pytest.raises(Fatal, match="rejected the association"):
        send(files, peer, US)


def test_a_peer_that_is_down_is_for_later(files: list[Path]) -> None:
    peer = Peer("pacs", AETitle("PACS"), "127.0.0.1", free_port(), 2.0)
    with pytest.raises(Temporary, match="cannot be reached"):
        send(files, peer, US)
    with pytest.raises(Temporary, match="cannot be reached"):
        echo(peer, US)


def test_a_name_that_cannot_be_resolved_is_for_later() -> None:
    with pytest.raises(Temporary, match="cannot be reached"):
        echo(Peer("pacs", AETitle("PACS"), "no-such-host.invalid", 104, 2.0), US)


def test_an_instance_that_the_peer_has_already_is_stored(files: list[Path]) -> None:
    with _peer(0x0111) as peer:
        assert send(files, peer, US) == "stored, 0x0111: it had it already"


def test_a_peer_that_breaks_off_is_for_later(files: list[Path]) -> None:
    with _peer(aborts=True) as peer, pytest.raises(Temporary):
        send(files, peer, US)


def test_echo_is_answered() -> None:
    with _peer() as peer:
        echo(peer, US)
        assert peer.port


def test_a_folder_is_searched_for_dicom_files_only(tmp_path: Path) -> None:
    folder = write_series(make_series(slices=2), tmp_path / "a" / "b")
    (folder / "notes.txt").write_text("not DICOM")
    assert [path.name for path in dicom_files(tmp_path)] == ["0000.dcm", "0001.dcm"]


def test_a_file_that_is_only_called_dcm_is_not_left_out_silently(tmp_path: Path) -> None:
    (tmp_path / "empty.dcm").touch()
    (tmp_path / "._IM1.dcm").write_bytes(b"what a Mac leaves beside a file")
    (found,) = dicom_files(tmp_path)
    assert found.name == "empty.dcm"
    with pytest.raises(NotSendable, match="no DICOM file header"):
        opened(found)


def test_a_file_stands_for_a_folder_of_one(tmp_path: Path) -> None:
    folder = write_series(make_series(slices=2), tmp_path)
    assert dicom_files(folder / "0001.dcm") == [folder / "0001.dcm"]
