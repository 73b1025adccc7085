"""Instances on disk: written beside, fsynced, renamed, folder fsynced; only then acknowledged.

incoming/    received and safe, not yet in the database; *.part are halves of a crash
             TIME-ASSOCIATION-NUMBER.dcm an Instance, TIME-ASSOCIATION.end how that ended,
             TIME-ASSOCIATION-NUMBER.asked and .commit: see core/commitment.py
instances/   SERIES_UID/SOP_UID.dcm, one row each
aside/       what could not be kept in a Series, for a person to look at
"""

import contextlib
import hashlib
import json
import os
import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from pydicom import Dataset, dcmread

from node.core.commitment import Asked, Report
from node.core.disk import fsync_folder
from node.core.errors import SeriesRejected
from node.core.names import AETitle, SeriesInstanceUID
from node.dicom.header import InstanceHeader, Undecodable, identity
from node.dicom.planes import Plane, planes_of
from node.dicom.series import SourceSeries

_ARRIVED = (".dcm", ".end", ".asked", ".commit")
_PREAMBLE = b"\0" * 128 + b"DICM"
_LONGEST_META_START = 144  # up to the length of the File Meta Information
# An association has a dot in it; a number alone was a process, before associations had names.
_NAME = re.compile(r"\d{20}-(?P<association>[0-9a-z]*\.[0-9a-z.]*)-\d+\.dcm")
_END_NAME = re.compile(r"\d{20}-(?P<association>[0-9a-z]*\.[0-9a-z.]*)\.end")


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
    association: str | None = None
    planes: tuple[Plane, ...] = ()
    number: int | None = None
    parts: int | None = None


@dataclass(frozen=True)
class IncomingEnd:
    """How an Association ended; all of the receiver `receiver` that were open where it died."""

    path: Path
    ending: str
    ended_at: float
    association: str | None = None
    receiver: str | None = None


class Inbox:
    """The instance files of one data folder."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._incoming = data_dir / "incoming"
        self._instances = data_dir / "instances"
        self._aside = data_dir / "aside"
        for folder in (self._incoming, self._instances, self._aside):
            make_folder_durably(folder)

    @property
    def incoming_folder(self) -> Path:
        """Where the receiver writes."""
        return self._incoming

    def has_aside(self, association: str) -> bool:
        """Whether something that this Association brought could not be kept in a Series."""
        return any(association_of(path) == association for path in self._aside.glob("*.dcm"))

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
        return (path for path in self.arrived() if path.suffix == ".dcm")

    def arrived(self) -> list[Path]:
        """What is safe and not yet recorded, the earliest first."""
        with os.scandir(self._incoming) as entries:
            names = sorted(one.name for one in entries if one.name.endswith(_ARRIVED))
        return [self._incoming / name for name in names]

    def open_incoming(self, path: Path) -> IncomingInstance:
        """Reads one of `incoming` again from disk, never all of it at once.

        Raises Undecodable, OSError.
        """
        with path.open("rb") as file:
            parsed, transfer_syntax_uid, calling_ae_title = _parsed(file)
            file.seek(0)
            file.seek(data_set_offset(file.read(_LONGEST_META_START)))
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            status = os.fstat(file.fileno())
        header = identity(parsed)
        try:
            planes = planes_of(parsed)
        except Exception as error:  # a hostile header, of this file alone
            raise Undecodable(f"its planes cannot be read: {error!r}") from error
        return IncomingInstance(
            path=path,
            header=header,
            transfer_syntax_uid=transfer_syntax_uid,
            sha256=sha256,
            size_bytes=status.st_size,
            calling_ae_title=calling_ae_title,
            received_at=status.st_mtime,
            association=association_of(path),
            planes=planes,
            number=_whole(parsed, "InstanceNumber"),
            parts=_parts(parsed),
        )

    def described(self, path: str) -> tuple[tuple[Plane, ...], int | None, int | None]:
        """Planes, InstanceNumber and parts of a recorded Instance. Raises Undecodable, OSError."""
        with (self._data_dir / path).open("rb") as file:
            parsed, _, _ = _parsed(file)
        return planes_of(parsed), _whole(parsed, "InstanceNumber"), _parts(parsed)

    def open_end(self, path: Path) -> IncomingEnd:
        """Reads one `.end` of `arrived`. Raises Undecodable, OSError.

        It is not fsynced: it would cost as much as an Instance, and a release that a power cut
        takes back is an Association that was lost, which proves less and never too much.
        """
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            association, receiver = told.get("association"), told.get("receiver")
            ended_at = float(told.get("ended_at") or path.stat().st_mtime)
            if association is None and not receiver:
                raise ValueError("it names neither an association nor a receiver")
            return IncomingEnd(path, str(told["ending"])[:16], ended_at, association, receiver)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if found := _END_NAME.fullmatch(path.name):
                return IncomingEnd(path, "lost", path.stat().st_mtime, found["association"])
            raise Undecodable(f"it does not tell how an association ended: {error!r}") from error

    def open_asked(self, path: Path) -> Asked:
        """Reads one `.asked` of `arrived`. Raises Undecodable, OSError."""
        try:
            return Asked.from_json(path.read_text(encoding="utf-8"))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise Undecodable(f"it does not tell what was asked: {error!r}") from error

    def open_report(self, path: Path) -> Report:
        """Reads one `.commit` of `arrived`. Raises Undecodable, OSError."""
        try:
            return Report.from_json(path.read_text(encoding="utf-8"))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise Undecodable(f"it does not tell what is committed to: {error!r}") from error

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

    def move_aside(self, incoming: Path, reason: str, twin: str | None = None) -> None:
        """Takes a file out of incoming/ that will never be recorded; may run again after a crash.

        twin: the name in aside/ of a file with the same data set and reason, if there is one. Then
        this is one more name of that: what is sent again for ever takes no more room.
        """
        target = self._aside / incoming.name
        if twin is not None and twin != incoming.name and _linked(self._aside / twin, target):
            incoming.unlink()
            return
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


def _linked(twin: Path, target: Path) -> bool:
    """Gives a file and its reason second names; False where it is gone, or the disk cannot."""
    try:
        for suffix in (".txt", twin.suffix):
            with contextlib.suppress(FileExistsError):  # before a crash
                target.with_suffix(suffix).hardlink_to(twin.with_suffix(suffix))
    except OSError:
        target.with_suffix(".txt").unlink(missing_ok=True)  # or writing it would write the twin's
        return False
    return True


def association_of(path: Path) -> str | None:
    """The Association that brought a file of incoming/; None for a name that says none."""
    found = _NAME.fullmatch(path.name)
    return found["association"] if found else None


def _parsed(file: BinaryIO) -> tuple[Dataset, str, AETitle]:
    """Header, transfer syntax and sender of a file that begins as `part_10_header` writes it."""
    try:
        parsed = dcmread(file, stop_before_pixels=True)
        meta = parsed.file_meta
        return parsed, str(meta.TransferSyntaxUID), AETitle(str(meta.SourceApplicationEntityTitle))
    except OSError:
        raise
    except Exception as error:  # not what we wrote: the disk, or a stranger's file
        raise Undecodable(f"it cannot be parsed: {error!r}") from error


def _whole(parsed: Dataset, keyword: str) -> int | None:
    try:
        number = int(parsed.get(keyword))
    except Exception:  # absent, or a sender's odd value, decoded only now
        return None
    return number if abs(number) < 2**31 else None


def _parts(parsed: Dataset) -> int | None:
    """Of how many Instances the concatenation consists (PS3.3 C.7.6.16.1.1); 0: not said."""
    if "ConcatenationUID" not in parsed:
        return None
    return max(0, _whole(parsed, "InConcatenationTotalNumber") or 0)


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
    fsync_folder(folder.parent)


def write_durably(path: Path, *chunks: bytes | memoryview) -> None:
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
    fsync_folder(path.parent)


def data_set_offset(raw: bytes) -> int:
    """Where the data set begins in a Part 10 file; 0 where there is no such header (PS3.10 7.1)."""
    start = len(_PREAMBLE)
    if raw[128:start] != b"DICM" or raw[start : start + 4] != b"\x02\x00\x00\x00":
        return 0
    (length,) = struct.unpack_from("<I", raw, start + 8)
    return int(start + 12 + length)
