"""What the storage SCP answers, over real sockets, and what lies on disk when it has."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from node.core.names import AETitle
from node.dicom.inbox import Inbox
from node.dicom.scp import StorageSCP
from tests.peers import storescu
from tests.series_factory import make_series, write_series


@contextmanager
def _listening(
    data_dir: Path, accept_from: set[AETitle] | None = None, min_free_bytes: int = 0
) -> Iterator[tuple[Inbox, int]]:
    inbox = Inbox(data_dir, min_free_bytes)
    scp = StorageSCP(inbox, ae_title=AETitle("SEGNODE"), accept_from=accept_from)
    port = scp.start("127.0.0.1", 0)
    try:
        yield inbox, port
    finally:
        scp.stop()


@contextmanager
def _association(port: int, calling: str = "MODALITY") -> Iterator[Association]:
    ae = AE(ae_title=calling)
    ae.add_requested_context(MRImageStorage, ExplicitVRLittleEndian)
    ae.add_requested_context(Verification)
    association = ae.associate("127.0.0.1", port, ae_title="SEGNODE")
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


def _send_raw(association: Association, data_set: bytes, sop_instance_uid: str) -> int:
    """C-STORE of bytes that no library would write."""
    from io import BytesIO

    from pynetdicom.dimse_primitives import C_STORE

    request = C_STORE()
    request.MessageID = 1
    request.AffectedSOPClassUID = MRImageStorage
    request.AffectedSOPInstanceUID = sop_instance_uid
    request.Priority = 2
    request.DataSet = BytesIO(data_set)
    context = next(c for c in association.accepted_contexts if c.abstract_syntax == MRImageStorage)
    association._reactor_checkpoint.clear()
    while not association._is_paused:
        pass
    association.dimse.send_msg(request, context.context_id or 1)
    _, answer = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    assert isinstance(answer, C_STORE)
    assert answer.Status is not None
    return int(answer.Status)


def test_an_instance_from_dcmtk_is_kept_bit_for_bit(tmp_path: Path) -> None:
    folder = write_series(make_series(slices=3), tmp_path / "series")
    with _listening(tmp_path / "var") as (inbox, port):
        done = storescu(folder, port)
        assert done.returncode == 0, done.stderr
        kept = {dcmread(path).SOPInstanceUID: dcmread(path) for path in inbox.incoming()}
    sent = {dcmread(path).SOPInstanceUID: dcmread(path) for path in folder.iterdir()}
    assert kept == sent
    assert {one.file_meta.SourceApplicationEntityTitle for one in kept.values()} == {"MODALITY"}


def test_an_unknown_calling_ae_is_rejected(tmp_path: Path) -> None:
    with _listening(tmp_path, {AETitle("MODALITY")}) as (_, port):
        with _association(port, "STRANGER") as association:
            assert association.is_rejected
        with _association(port, "MODALITY") as association:
            assert association.send_c_echo().Status == 0x0000


def test_an_undecodable_data_set_gets_c000_and_is_kept_aside_with_the_reason(
    tmp_path: Path,
) -> None:
    garbage = os.urandom(64) * 8
    with _listening(tmp_path) as (inbox, port), _association(port) as association:
        assert _send_raw(association, garbage, "1.2.3") == 0xC000
        assert inbox.aside_count() == 1
        assert list(inbox.incoming()) == []
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
    with _listening(tmp_path) as (inbox, port), _association(port) as association:
        assert _send_raw(association, _encoded(instance), uid) == 0xC000
        assert inbox.aside_count() == 1
    assert keyword in next((tmp_path / "aside").glob("*.txt")).read_text()


@pytest.mark.parametrize("missing", [2, 100, 400])
def test_a_data_set_that_ends_early_gets_c000(tmp_path: Path, missing: int) -> None:
    instance = make_series(slices=1)[0]
    with _listening(tmp_path) as (inbox, port), _association(port) as association:
        cut = _encoded(instance)[:-missing]
        assert _send_raw(association, cut, str(instance.SOPInstanceUID)) == 0xC000
        assert list(inbox.incoming()) == []


def test_a_data_set_of_another_instance_than_announced_gets_a900(tmp_path: Path) -> None:
    instance = make_series(slices=1)[0]
    with _listening(tmp_path) as (inbox, port), _association(port) as association:
        assert _send_raw(association, _encoded(instance), "1.2.3") == 0xA900
        assert list(inbox.incoming()) == []


def test_an_instance_that_would_leave_too_little_space_gets_a700(tmp_path: Path) -> None:
    with _listening(tmp_path, min_free_bytes=1 << 60) as (inbox, port):
        with _association(port) as association:
            assert association.send_c_store(make_series(slices=1)[0]).Status == 0xA700
        assert list(inbox.incoming()) == []


def test_a_disk_that_is_full_gets_a700_and_leaves_no_half(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        with _listening(small) as (inbox, port), _association(port) as association:
            statuses = [
                association.send_c_store(one).Status
                for one in make_series(slices=8, rows=96, columns=96)
            ]
            kept = len(list(inbox.incoming()))
        assert statuses == [0x0000] * kept + [0xA700] * (8 - kept)
        assert 0 < kept < 8
        assert list(small.rglob("*.part")) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


def _encoded(instance: Dataset) -> bytes:
    from pynetdicom.dsutils import encode

    encoded = encode(instance, is_implicit_vr=False, is_little_endian=True)
    assert encoded is not None
    return encoded
