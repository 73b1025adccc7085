"""What a C-STORE is answered, over real sockets, and what lies on disk when it is."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import CTImageStorage, MRImageStorage, SecondaryCaptureImageStorage
from pynetdicom import AE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # built at import
from structlog.testing import capture_logs

from node.dicom.receiver.negotiation import KINDS, negotiated
from tests.peers import eventually, storescu
from tests.receiving import (
    STORE,
    RawPeer,
    association,
    encoded,
    p_data,
    pdv,
    receiving,
    store_command,
)
from tests.series_factory import make_series, write_series


def _send_raw(port: int, data_set: bytes, sop_instance_uid: str) -> int:
    """C-STORE of bytes that no library would write."""
    with RawPeer(port) as peer:
        peer.associate()
        command = store_command(sop_instance_uid)
        peer.send(p_data(pdv(STORE, command, command=True, last=True)))
        peer.send(p_data(pdv(STORE, data_set, command=False, last=True)))
        status = peer.status()
        peer.release()
        return status


def test_an_instance_from_dcmtk_is_kept_bit_for_bit(tmp_path: Path) -> None:
    folder = write_series(make_series(slices=3), tmp_path / "series")
    with receiving(tmp_path / "var") as here:
        done = storescu(folder, here.port)
        assert done.returncode == 0, done.stderr
        kept = {dcmread(path).SOPInstanceUID: dcmread(path) for path in here.inbox.incoming()}
    sent = {dcmread(path).SOPInstanceUID: dcmread(path) for path in folder.iterdir()}
    assert kept == sent
    assert {one.file_meta.SourceApplicationEntityTitle for one in kept.values()} == {"MODALITY"}


def test_an_unknown_calling_ae_is_rejected_and_the_log_names_it(tmp_path: Path) -> None:
    with capture_logs() as logs, receiving(tmp_path, accept_from=["MODALITY"]) as here:
        with association(here.port, "STRANGER") as one:
            assert one.is_rejected
        with association(here.port, "MODALITY") as one:
            assert one.send_c_echo().Status == 0x0000
        told = eventually(
            lambda: [one for one in logs if one["event"] == "association rejected"], 5, "log line"
        )
    assert [one["calling_ae_title"] for one in told] == ["STRANGER"]


@pytest.mark.parametrize("checked", [False, True])
def test_another_called_ae_is_accepted_unless_it_is_checked(tmp_path: Path, checked: bool) -> None:
    ae = AE(ae_title="MODALITY")
    ae.add_requested_context(Verification)
    with capture_logs() as logs, receiving(tmp_path, check_called_ae_title=checked) as here:
        other = ae.associate("127.0.0.1", here.port, ae_title="SOMEBODY")
        assert other.is_rejected is checked
        if not checked:
            other.release()
            return
        rejection = other.acceptor.primitive
        assert rejection is not None
        assert (rejection.result_source, rejection.diagnostic) == (1, 7)  # PS3.8 9.3.4
        with association(here.port) as ours:
            assert ours.send_c_echo().Status == 0x0000
        told = eventually(
            lambda: [one for one in logs if one["event"] == "association rejected"], 5, "log line"
        )
    assert told[0]["reason"] == 'it calls "SOMEBODY", not dicom.ae_title = "SEGNODE"'


def test_a_peer_that_may_not_store_may_echo_and_gets_0124(tmp_path: Path) -> None:
    with receiving(tmp_path, echo_only=["VIEWER"]) as here:
        with association(here.port, "VIEWER") as one:
            assert one.send_c_echo().Status == 0x0000
            assert one.send_c_store(make_series(slices=1)[0]).Status == 0x0124
            assert one.send_c_echo().Status == 0x0000
        assert list(here.inbox.incoming()) == []


def test_an_undecodable_data_set_gets_c000_and_is_kept_aside_with_the_reason(
    tmp_path: Path,
) -> None:
    garbage = os.urandom(64) * 8
    with receiving(tmp_path) as here:
        assert _send_raw(here.port, garbage, "1.2.3") == 0xC000
        assert here.inbox.aside_count() == 1
        assert list(here.inbox.incoming()) == []
    (kept,) = (tmp_path / "aside").glob("*.dcm")
    assert kept.read_bytes().endswith(garbage)
    assert kept.with_suffix(".txt").read_text().strip()


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"])
def test_a_data_set_without_a_uid_that_identifies_it_gets_c000(
    tmp_path: Path, keyword: str
) -> None:
    instance = make_series(slices=1)[0]
    uid = str(instance.SOPInstanceUID)
    setattr(instance, keyword, "")
    with receiving(tmp_path) as here:
        assert _send_raw(here.port, encoded(instance), uid) == 0xC000
        assert here.inbox.aside_count() == 1
    assert keyword in next((tmp_path / "aside").glob("*.txt")).read_text()


@pytest.mark.parametrize("missing", [2, 100, 400])
def test_a_data_set_that_ends_early_gets_c000(tmp_path: Path, missing: int) -> None:
    instance = make_series(slices=1)[0]
    with receiving(tmp_path) as here:
        cut = encoded(instance)[:-missing]
        assert _send_raw(here.port, cut, str(instance.SOPInstanceUID)) == 0xC000
        assert list(here.inbox.incoming()) == []


def test_a_request_without_a_data_set_gets_c000(tmp_path: Path) -> None:
    with receiving(tmp_path) as here, RawPeer(here.port) as peer:
        peer.associate()
        command = store_command("1.2.3", has_data_set=False)
        peer.send(p_data(pdv(STORE, command, command=True, last=True)))
        assert peer.status() == 0xC000


def test_a_data_set_of_another_instance_than_announced_gets_a900(tmp_path: Path) -> None:
    instance = make_series(slices=1)[0]
    with receiving(tmp_path) as here:
        assert _send_raw(here.port, encoded(instance), "1.2.3") == 0xA900
        assert list(here.inbox.incoming()) == []


def test_a_sop_class_that_is_not_that_of_its_context_gets_0122(tmp_path: Path) -> None:
    instance = make_series(slices=1)[0]
    with receiving(tmp_path) as here, RawPeer(here.port) as peer:
        peer.associate()
        command = store_command(str(instance.SOPInstanceUID), CTImageStorage)
        peer.send(p_data(pdv(STORE, command, command=True, last=True)))
        peer.send(p_data(pdv(STORE, encoded(instance), command=False, last=True)))
        assert peer.status() == 0x0122


def test_a_sop_instance_uid_that_is_none_gets_0117(tmp_path: Path) -> None:
    with receiving(tmp_path) as here:
        assert _send_raw(here.port, encoded(make_series(slices=1)[0]), "../../etc") == 0x0117
        assert list(here.inbox.incoming()) == []


def test_an_instance_that_would_leave_too_little_space_gets_a700(tmp_path: Path) -> None:
    with receiving(tmp_path, min_free_bytes=1 << 60) as here:
        with association(here.port) as one:
            assert one.send_c_store(make_series(slices=1)[0]).Status == 0xA700
        assert list(here.inbox.incoming()) == []


def test_an_instance_larger_than_allowed_gets_a700_and_the_next_is_kept(tmp_path: Path) -> None:
    large, small = make_series(slices=1, rows=512, columns=512)[0], make_series(slices=1)[0]
    with receiving(tmp_path, max_instance_bytes=100_000) as here, association(here.port) as one:
        assert one.send_c_store(large).Status == 0xA700
        assert list(here.folder.rglob("*.part")) == []
        assert one.send_c_store(small).Status == 0x0000


def test_a_disk_that_is_full_gets_a700_and_leaves_no_half(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        with receiving(small) as here, association(here.port) as one:
            statuses = [
                one.send_c_store(instance).Status
                for instance in make_series(slices=8, rows=96, columns=96)
            ]
            kept = len(list(here.inbox.incoming()))
        assert statuses == [0x0000] * kept + [0xA700] * (8 - kept)
        assert 0 < kept < 8
        assert list(small.rglob("*.dcm.part")) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_folder_that_cannot_be_written_gets_0110(tmp_path: Path) -> None:
    with receiving(tmp_path) as here, association(here.port) as one:
        (tmp_path / "incoming").rename(tmp_path / "away")
        (tmp_path / "incoming").write_text("not a folder")
        assert one.send_c_store(make_series(slices=1)[0]).Status == 0x0110


def test_kinds_that_are_refused_are_not_negotiated(tmp_path: Path) -> None:
    kinds = negotiated(dict.fromkeys(KINDS, True) | {"images": False})
    with (
        receiving(tmp_path, sop_classes=kinds.accepted) as here,
        association(
            here.port, "MODALITY", MRImageStorage, SecondaryCaptureImageStorage, "1.2.3.4.5"
        ) as one,
    ):
        accepted = {str(context.abstract_syntax) for context in one.accepted_contexts}
    assert MRImageStorage in accepted
    assert not accepted & {str(SecondaryCaptureImageStorage), "1.2.3.4.5"}


def test_an_association_leaves_a_file_that_says_how_it_ended_after_its_instances(
    tmp_path: Path,
) -> None:
    with receiving(tmp_path) as here:
        with association(here.port) as one:
            for instance in make_series(slices=3):
                assert one.send_c_store(instance).Status == 0x0000
        (end,) = here.wait_for_endings()
        names = sorted(path.name for path in (tmp_path / "incoming").iterdir())
        told = json.loads(end.read_text())
    assert names[-1] == end.name
    assert len(names) == 4
    assert {name.split("-")[1].removesuffix(".end") for name in names} == {told["association"]}
    assert (told["ending"], told["calling_ae_title"]) == ("released", "MODALITY")
    assert told["address"] == "127.0.0.1"
    assert told["began_at"] <= told["ended_at"]


def test_associations_that_stored_nothing_leave_nothing(tmp_path: Path) -> None:
    with receiving(tmp_path) as here:
        with association(here.port) as one:
            assert one.send_c_echo().Status == 0x0000
        eventually(lambda: here.threads() <= 6, 5, "end of the association")
        assert list((tmp_path / "incoming").iterdir()) == []
