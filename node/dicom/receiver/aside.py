"""aside/: copies of what could not be read, for a person to look at, in bounded space.

    TIME-DIGEST.dcm   a data set as it came, with the header of a Part 10 file
    TIME-DIGEST.txt   why it was refused, and who sent it

They were refused: the sender has them still. So where aside/ is full no more are kept, and nothing
goes that nobody has looked at: the node keeps acknowledged Instances in the same folder. DIGEST is
of the data set; one that is sent again for ever is kept once.
"""

import hashlib
import os
import threading
import time
from pathlib import Path
from typing import Final

from node.core.disk import fsync_folder
from node.dicom.receiver.reports import Reports
from node.dicom.receiver.spool import Clock

_BLOCK: Final = 4096  # what even a small file takes of the disk
_READ: Final = 1 << 20
_LOOK_AGAIN_SECONDS: Final = 30.0  # a person deletes, the node adds
_DIGEST_LENGTH: Final = 32


class Aside:
    """The folder, as the receiving process fills it."""

    def __init__(self, folder: Path, most_bytes: int, clock: Clock, reports: Reports) -> None:
        self._folder, self._most = folder, most_bytes
        self._clock, self._reports = clock, reports
        self._lock = threading.Lock()
        self._names: dict[str, str] = {}  # by digest
        self._bytes = 0
        self._looked_at = float("-inf")  # monotonic
        self._is_full = False

    def keep(self, path: Path, descriptor: int, begin: int, why: str) -> str | None:
        """Moves a file here whose data set is at `begin`; returns the name of the copy.

        None where there is no room: then, and where it is here already, the file stays where it
        is. Raises OSError.
        """
        digest = _digest(descriptor, begin)
        size = os.fstat(descriptor).st_size
        with self._lock:
            self._look()
            if twin := self._twin(digest):
                return twin
            if not self._has_room(_on_disk(size) + _BLOCK):
                return None
            name = self._names[digest] = f"{self._clock.stamp()}-{digest}.dcm"
            self._bytes += _on_disk(size) + _BLOCK
        self._move(path, descriptor, self._folder / name, why)
        return name

    def _move(self, path: Path, descriptor: int, kept: Path, why: str) -> None:
        try:
            os.fsync(descriptor)
            kept.with_suffix(".txt").write_text(why + "\n", encoding="utf-8")
            path.rename(kept)
            fsync_folder(self._folder)
        except OSError:
            self._looked_at = float("-inf")
            raise

    def _twin(self, digest: str) -> str | None:
        name = self._names.get(digest)
        return name if name and (self._folder / name).exists() else None

    def _has_room(self, more: int) -> bool:
        """Says once when there is none, and once when there is some again."""
        full = self._bytes + more > self._most
        if full != self._is_full:
            self._is_full = full
            tell = self._reports.warning if full else self._reports.info
            tell(
                "unreadable instances are no longer kept aside: node.max_aside_mb are there; "
                "look at them and delete them"
                if full
                else "unreadable instances are kept aside again",
                aside_mb=self._bytes // 1_000_000,
                max_aside_mb=self._most // 1_000_000,
            )
        return not full

    def _look(self) -> None:
        """Counts what lies here, unless that was done a moment ago."""
        if time.monotonic() < self._looked_at + _LOOK_AGAIN_SECONDS:
            return
        self._looked_at = time.monotonic()
        self._names, sizes = {}, dict[int, int]()
        with os.scandir(self._folder) as entries:
            for one in entries:
                self._names[_digest_in(one.name)] = one.name
                sizes[one.inode()] = _on_disk(_size(one))  # the node gives some a second name
        self._bytes = sum(sizes.values())


def _digest(descriptor: int, begin: int) -> str:
    """Of what lies behind `begin`, read in pieces: it may be larger than memory."""
    found = hashlib.sha256()
    while piece := os.pread(descriptor, _READ, begin):
        found.update(piece)
        begin += len(piece)
    return found.hexdigest()[:_DIGEST_LENGTH]


def _digest_in(name: str) -> str:
    """Of TIME-DIGEST.dcm; of another name something that is no digest."""
    stem, _, suffix = name.rpartition(".")
    return stem.rpartition("-")[2] if suffix == "dcm" else name


def _size(entry: "os.DirEntry[str]") -> int:
    try:
        return entry.stat(follow_symlinks=False).st_size
    except FileNotFoundError:  # deleted meanwhile
        return 0


def _on_disk(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK
