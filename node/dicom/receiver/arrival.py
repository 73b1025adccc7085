"""One Instance on its way to disk: fragments as they come, then judged, then made durable."""

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from node.core.disk import fsync_folder
from node.dicom.receiver import data_set
from node.dicom.receiver.aside import Aside
from node.dicom.receiver.command import StoreRequest, is_uid
from node.dicom.receiver.data_set import NotWhole
from node.dicom.receiver.part10 import part_10_header
from node.dicom.receiver.space import FreeSpace
from node.dicom.receiver.spool import Clock
from node.dicom.receiver.status import (
    CANNOT_UNDERSTAND,
    DATA_SET_DOES_NOT_MATCH,
    OUT_OF_RESOURCES,
    PROCESSING_FAILURE,
    Refused,
)

_WRITE_BACK_EVERY: Final = 128 << 20  # bytes of one Instance, before the rest of it has come
_MOST_PIECES: Final = 512  # of one writev; Linux takes 1,024
_DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True)
class Spool:
    """Where Instances arrive. Shared by all Associations."""

    incoming: Path
    aside: Aside
    clock: Clock
    space: FreeSpace
    max_instance_bytes: int


class Arrival:
    """A .part file that grows. Every method raises Refused where the Instance cannot be kept."""

    def __init__(
        self, spool: Spool, name: str, request: StoreRequest, syntax: str, calling: str
    ) -> None:
        self._spool, self._name = spool, name
        self._request, self._syntax, self._calling = request, syntax, calling
        self._descriptor = -1
        self._path = spool.incoming / f"{name}.part"
        self._size = self._written_back = 0
        header = part_10_header(request.sop_class_uid, request.sop_instance_uid, syntax, calling)
        self._begin = len(header)
        try:
            self._open(header)
        except BaseException:
            self.drop()
            raise

    def add(self, fragments: Sequence[memoryview]) -> None:
        """Appends fragments of the data set."""
        count = sum(len(one) for one in fragments)
        coming = self._size + count
        if coming > self._spool.max_instance_bytes:
            most = self._spool.max_instance_bytes // 1_000_000
            raise Refused(OUT_OF_RESOURCES, f"larger than dicom.max_instance_mb = {most}")
        with _as_refusal("written"):
            self._spool.space.take(count)
            _write(self._descriptor, fragments)
            self._size = coming
            self._write_back()

    def finish(self) -> Path:
        """Judges what has come and makes it survive kill -9 and a power cut."""
        with _as_refusal("read back"):
            self._judge()
        with _as_refusal("written"):
            os.fsync(self._descriptor)
            final = self._spool.incoming / f"{self._spool.clock.stamp()}-{self._name}.dcm"
            self._path.rename(final)
            self._close()
            fsync_folder(self._spool.incoming)
        return final

    def set_aside(self, reason: str) -> str | None:
        """Keeps bytes that cannot be stored as an Instance, with the reason; returns their name."""
        why = f"{reason}\nsent by {self._calling} over association {self._name}"
        try:
            self._spool.space.require()
            return self._spool.aside.keep(self._path, self._descriptor, self._begin, why)
        except (OSError, Refused):
            return None

    def drop(self) -> None:
        """Removes what has come; may be called at any time, and again."""
        with contextlib.suppress(OSError):
            self._close()
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _open(self, header: bytes) -> None:
        with _as_refusal("written"):
            self._spool.space.require()
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._descriptor = os.open(self._path, flags, 0o640)
            _write(self._descriptor, [header])

    def _write_back(self) -> None:
        """A large Instance goes to the disk as it comes, or its answer would wait for all of it."""
        if self._size - self._written_back > _WRITE_BACK_EVERY:
            os.fdatasync(self._descriptor)
            self._written_back = self._size

    def _judge(self) -> None:
        end = self._begin + self._size
        try:
            found = data_set.identity(self._descriptor, self._begin, end, self._syntax)
        except NotWhole as error:
            raise Refused(CANNOT_UNDERSTAND, str(error)) from error
        uids = (
            found.sop_class_uid,
            found.sop_instance_uid,
            found.study_instance_uid,
            found.series_instance_uid,
        )
        for name, uid in zip(data_set.NAMES.values(), uids, strict=True):
            if not is_uid(uid):
                fault = f"is not a UID: {uid[:80]!r}" if uid else "is missing or empty"
                raise Refused(CANNOT_UNDERSTAND, f"{name} {fault}")
        if uids[:2] != (self._request.sop_class_uid, self._request.sop_instance_uid):
            raise Refused(
                DATA_SET_DOES_NOT_MATCH, "the data set has another SOP Class or Instance UID"
            )

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1  # closed, even where close() fails
        if descriptor >= 0:
            os.close(descriptor)


@contextlib.contextmanager
def _as_refusal(done: str) -> Iterator[None]:
    """What the disk says becomes an answer. done: what cannot be done with the Instance."""
    try:
        yield
    except OSError as error:
        full = error.errno in _DISK_FULL
        status = OUT_OF_RESOURCES if full else PROCESSING_FAILURE
        raise Refused(status, f"it cannot be {done}: {error.strerror}") from error


def _write(descriptor: int, pieces: Sequence[bytes | memoryview]) -> None:
    left = [memoryview(one) for one in pieces if len(one)]
    while left:
        count = os.writev(descriptor, left[:_MOST_PIECES])
        while left and count >= len(left[0]):
            count -= len(left.pop(0))
        if count:
            left[0] = left[0][count:]
