"""A file that is to be sent: whether it is a whole Instance, whose, and where its bytes lie."""

import os
import re
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from pydicom import Dataset
from pydicom.uid import MediaStorageDirectoryStorage
from pynetdicom.dsutils import split_dataset

from node.core.names import SOPInstanceUID
from node.dicom.receiver import data_set

_DEFLATED: Final = "1.2.840.10008.1.2.1.99"
_MOST_INFLATED: Final = 4_000_000_000  # bytes
_PIECE: Final = 1 << 20
_UID: Final = re.compile(r"[0-9.]{1,64}")
_PREFIX: Final = slice(128, 132)  # PS3.10 7.1
# A data set that nobody put a Part 10 header before: (0002,00xx) or (0008,00xx), then a VR or a
# short length.
_BARE: Final = re.compile(rb"[\x02\x08]\0.\0([A-Z][A-Z]|..\0\0)", re.DOTALL)


class NotSendable(Exception):
    """The file cannot be sent; the message says why. sop_instance_uid: as far as it is known."""

    def __init__(self, reason: str, sop_instance_uid: str = "") -> None:
        super().__init__(reason)
        self.sop_instance_uid = SOPInstanceUID(sop_instance_uid)


@dataclass(frozen=True)
class Instance:
    """A whole Part 10 file. begin: the offset of its data set.

    Its Study and Series Instance UIDs are "" where it does not say.
    """

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    begin: int
    study_instance_uid: str = ""
    series_instance_uid: str = ""

    @property
    def kind(self) -> tuple[str, str]:
        """What it needs a presentation context for: SOP Class and Transfer Syntax."""
        return self.sop_class_uid, self.transfer_syntax_uid


def dicom_files(folder: Path) -> list[Path]:
    """The DICOM files in a folder and below; no media directories, and no other files.

    Those that nobody can read, data sets without a header, and what is only called .dcm are among
    them: `opened` says so. A file in place of the folder is the only one.
    """
    if folder.is_file():
        return [folder]
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and _is_instance(path)]


def _is_instance(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(132)
        if head[_PREFIX] != b"DICM":
            is_called = path.suffix.lower() == ".dcm" and not path.name.startswith(".")
            return is_called or _BARE.match(head) is not None
        meta, _ = split_dataset(path)
        return bool(meta.get("MediaStorageSOPClassUID") != MediaStorageDirectoryStorage)
    except Exception:  # pydicom's, of a torn header; `opened` tells why
        return True


def opened(path: Path) -> Instance:
    """Reads its header and walks over its elements. Raises NotSendable."""
    named = ""
    try:
        meta, begin = _header(path)
        named = _uid(meta, "MediaStorageSOPInstanceUID")
        transfer_syntax_uid = _uid(meta, "TransferSyntaxUID")
        if not transfer_syntax_uid:
            raise NotSendable("has a header without a Transfer Syntax", named)
        identity = _walked(path, transfer_syntax_uid, begin)
    except OSError as error:
        raise NotSendable(f"cannot be read: {error.strerror or error}", named) from error
    except data_set.NotWhole as error:
        raise NotSendable(f"is not a whole DICOM file: {error}", named) from error
    if not _UID.fullmatch(identity.sop_class_uid):
        raise NotSendable("has no SOP Class UID", named)
    if not _UID.fullmatch(identity.sop_instance_uid):
        raise NotSendable("has no SOP Instance UID", named)
    return Instance(
        path,
        identity.sop_class_uid,
        identity.sop_instance_uid,
        transfer_syntax_uid,
        begin,
        identity.study_instance_uid,
        identity.series_instance_uid,
    )


def _header(path: Path) -> tuple[Dataset, int]:
    """File Meta Information, and where the data set begins."""
    try:
        return split_dataset(path)
    except OSError:
        raise
    except Exception as error:  # whatever pydicom makes of bytes that are no header
        raise NotSendable("has no DICOM file header (PS3.10) that can be read") from error


def _uid(meta: Dataset, keyword: str) -> str:
    """Empty where it is not there, or no UID."""
    try:
        uid = str(meta.get(keyword) or "")
    except Exception:  # a value that pydicom decodes only now
        return ""
    return uid if _UID.fullmatch(uid) else ""


def _walked(path: Path, transfer_syntax_uid: str, begin: int) -> data_set.Identity:
    with path.open("rb") as file:
        if transfer_syntax_uid == _DEFLATED:
            file.seek(begin)
            with tempfile.TemporaryFile() as inflated:
                _inflate(file, inflated)
                return _identity(inflated, 0, transfer_syntax_uid)
        return _identity(file, begin, transfer_syntax_uid)


def _identity(file: IO[bytes], begin: int, transfer_syntax_uid: str) -> data_set.Identity:
    descriptor = file.fileno()
    return data_set.identity(descriptor, begin, os.fstat(descriptor).st_size, transfer_syntax_uid)


def _inflate(source: IO[bytes], sink: IO[bytes]) -> None:
    """PS3.5 A.5. Raises NotWhole where the stream does not come to its end."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    room = _MOST_INFLATED
    piece = source.read(_PIECE)
    while piece and not inflater.eof:
        try:
            data = inflater.decompress(piece, _PIECE)
        except zlib.error as error:
            raise data_set.NotWhole(f"its deflated bytes cannot be read: {error}") from error
        room -= len(data)
        if room < 0:
            raise data_set.NotWhole(f"more than {_MOST_INFLATED} bytes are deflated in it")
        sink.write(data)
        piece = inflater.unconsumed_tail or source.read(_PIECE)
    if not inflater.eof:
        raise data_set.NotWhole("its deflated bytes end early")
    sink.flush()
