"""Instances on disk: written beside, fsynced, renamed, folder fsynced; only then acknowledged.

incoming/    received and safe, not yet in the database; *.part are halves of a crash
instances/   SERIES_UID/SOP_UID.dcm, one row each
aside/       what could not be kept in a Series, for a person to look at
"""

import hashlib
import itertools
import os
import shutil
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID

from node import __version__
from node.core.errors import SeriesRejected
from node.core.names import AETitle, SeriesInstanceUID
from node.core.uids import derive_uid
from node.dicom.header import InstanceHeader, Undecodable, read_header
from node.dicom.series import SourceSeries

IMPLEMENTATION_CLASS_UID = UID(derive_uid("segnode", "implementation"))
IMPLEMENTATION_VERSION_NAME = f"SEGNODE_{__version__}"[:16]
_PREAMBLE = b"\0" * 128 + b"DICM"


class DiskFull(OSError):
    """Less space is free than the node keeps for itself."""


@dataclass(frozen=True)
class Received:
    """One Instance as it came over an Association. data_set: its bytes, without file meta."""

    data_set: bytes
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    calling_ae_title: AETitle


@dataclass(frozen=True)
class IncomingInstance:
    """One Instance in incoming/, read again from disk."""

    path: Path
    header: InstanceHeader
    transfer_syntax_uid: str
    sha256: str
    size_bytes: int
    calling_ae_title: AETitle
    received_at: float


class Inbox:
    """The instance files of one data folder. `keep` may be called by many threads."""

    def __init__(self, data_dir: Path, min_free_bytes: int = 0) -> None:
        self._data_dir = data_dir
        self._incoming = data_dir / "incoming"
        self._instances = data_dir / "instances"
        self._aside = data_dir / "aside"
        self._min_free_bytes = min_free_bytes
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        for folder in (self._incoming, self._instances, self._aside):
            make_folder_durably(folder)

    def keep(self, received: Received) -> Path:
        """Makes an Instance survive kill -9 and a power cut. Raises OSError, DiskFull."""
        free = shutil.disk_usage(self._incoming).free
        if free < self._min_free_bytes + len(received.data_set):
            raise DiskFull(f"{self._data_dir}: only {free // 1_000_000} MB are free")
        path = self._incoming / f"{self._unique_name()}.dcm"
        write_durably(path, part_10_header(received), received.data_set)
        return path

    def set_aside(self, received: Received, reason: str) -> Path:
        """Keeps the bytes that cannot be stored as an Instance, with the reason beside them."""
        path = self._aside / f"{self._unique_name()}.dcm"
        write_durably(path, part_10_header(received), received.data_set)
        path.with_suffix(".txt").write_text(reason + "\n", encoding="utf-8")
        return path

    def aside_count(self) -> int:
        """How many data sets were set aside."""
        return sum(1 for _ in self._aside.glob("*.dcm"))

    def clear_halves(self) -> int:
        """After a start: removes what a crash left half-written; none was acknowledged."""
        halves = [*self._incoming.glob("*.part"), *self._aside.glob("*.part")]
        for half in halves:
            half.unlink()
        return len(halves)

    def incoming(self) -> Iterator[Path]:
        """Instances that are safe and not yet recorded, the earliest first."""
        return iter(sorted(self._incoming.glob("*.dcm")))

    def open_incoming(self, path: Path) -> IncomingInstance:
        """Reads one of `incoming` again from disk. Raises Undecodable, OSError."""
        raw = path.read_bytes()
        data_set = raw[data_set_offset(raw) :]
        transfer_syntax_uid, calling_ae_title = _origin(raw)
        return IncomingInstance(
            path=path,
            header=read_header(data_set, transfer_syntax_uid),
            transfer_syntax_uid=transfer_syntax_uid,
            sha256=hashlib.sha256(data_set).hexdigest(),
            size_bytes=len(raw),
            calling_ae_title=calling_ae_title,
            received_at=path.stat().st_mtime,
        )

    def final_path(self, header: InstanceHeader) -> Path:
        """Where an Instance lies once it is recorded, relative to the data folder."""
        # The UIDs are digits and dots (see header._uid); "." and ".." are the two that are not
        # names of their own, hence the prefix.
        folder = Path("instances") / f"s{header.series_instance_uid}"
        return folder / f"i{header.sop_instance_uid}.dcm"

    def move(self, incoming: Path, path: Path) -> None:
        """Gives a recorded Instance its final place; may run again after a crash."""
        target = self._data_dir / path
        target.parent.mkdir(exist_ok=True)
        incoming.rename(target)

    def move_aside(self, incoming: Path, reason: str) -> None:
        """Takes a file out of incoming/ that will never be recorded."""
        target = self._aside / incoming.name
        target.with_suffix(".txt").write_text(reason + "\n", encoding="utf-8")
        incoming.rename(target)

    def has(self, path: Path) -> bool:
        """Whether an Instance lies at its final place."""
        return (self._data_dir / path).exists()

    def discard(self, incoming: Path) -> None:
        """Removes a copy of what is held already, bit for bit."""
        incoming.unlink()

    def read(self, uid: SeriesInstanceUID) -> SourceSeries:
        """All Instances of a Series. Raises OSError where one is gone."""
        return read_files(uid, self._files(uid))

    def header(self, uid: SeriesInstanceUID) -> Dataset:
        """The header of one Instance of a Series, without Pixel Data, to route by."""
        return dcmread(self._files(uid)[0], stop_before_pixels=True)

    def folder(self, uid: SeriesInstanceUID) -> Path:
        """Where the Instances of a Series lie."""
        return self._instances / f"s{uid}"

    def _files(self, uid: SeriesInstanceUID) -> list[Path]:
        return sorted(self.folder(uid).glob("i*.dcm"))

    def _unique_name(self) -> str:
        with self._lock:
            return f"{time.time_ns():020d}-{os.getpid()}-{next(self._numbers):08d}"


def read_files(uid: SeriesInstanceUID, paths: Iterable[Path]) -> SourceSeries:
    """The Instances in these files as one Series. Raises OSError, SeriesRejected."""
    instances, sha256_by_sop = [], {}
    for path in paths:
        raw = path.read_bytes()
        try:
            instance = dcmread(BytesIO(raw))
            sop_instance_uid = str(instance.SOPInstanceUID)
        except Exception as error:  # hostile bytes make the parser raise almost anything
            raise SeriesRejected(f"{path.name} cannot be parsed: {error!r}") from error
        instances.append(instance)
        digest = hashlib.sha256(memoryview(raw)[data_set_offset(raw) :]).hexdigest()
        sha256_by_sop[sop_instance_uid] = digest
    return SourceSeries(uid, tuple(instances), sha256_by_sop)


def make_folder_durably(folder: Path) -> None:
    """Makes a folder whose own name survives a power cut; what is in it would go with it."""
    folder.mkdir(parents=True, exist_ok=True)
    _fsync_folder(folder.parent)


def write_durably(path: Path, *chunks: bytes) -> None:
    """Writes a file so that its name exists only once all its bytes are safe on disk."""
    half = path.with_suffix(".part")
    try:
        with half.open("xb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        half.rename(path)
    except BaseException:
        half.unlink(missing_ok=True)
        raise
    _fsync_folder(path.parent)


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def part_10_header(received: Received) -> bytes:
    """Preamble, prefix and File Meta Information for a data set (PS3.10 7.1)."""
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = UID(received.sop_class_uid)
    meta.MediaStorageSOPInstanceUID = UID(received.sop_instance_uid)
    meta.TransferSyntaxUID = UID(received.transfer_syntax_uid)
    meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    meta.SourceApplicationEntityTitle = received.calling_ae_title
    buffer = DicomBytesIO()
    write_file_meta_info(buffer, meta)
    return _PREAMBLE + buffer.getvalue()


def _origin(raw: bytes) -> tuple[str, AETitle]:
    """Transfer syntax and sender, from the file meta that `part_10_header` wrote."""
    try:
        meta = dcmread(BytesIO(raw), specific_tags=["SOPInstanceUID"]).file_meta
        return str(meta.TransferSyntaxUID), AETitle(str(meta.SourceApplicationEntityTitle))
    except Exception as error:  # not what we wrote: the disk, or a stranger's file
        raise Undecodable(f"its file meta cannot be read: {error!r}") from error


def data_set_offset(raw: bytes) -> int:
    """Where the data set begins in a Part 10 file; 0 where there is no such header (PS3.10 7.1)."""
    start = len(_PREAMBLE)
    if raw[128:start] != b"DICM" or raw[start : start + 4] != b"\x02\x00\x00\x00":
        return 0
    (length,) = struct.unpack_from("<I", raw, start + 8)
    return int(start + 12 + length)
