"""A zip from anywhere. Nothing in it decides where a file goes or how much is written."""

import lzma
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from types import TracebackType

from node.core.errors import ConfigError
from node.inference.cascade import PREVIOUS_STAGE
from node.inference.folder import CHECKPOINTS, DATASET, DESCRIPTION, PLANS

_MOST_MEMBERS = 100_000
_LARGEST_TEXT = 64 * 2**20  # bytes; plans.json has some thousands
_LARGEST_TOTAL = 64 * 2**30  # bytes; five folds of the largest networks have about ten
_TEXTS = (PLANS, DATASET, DESCRIPTION)
_BROKEN = (  # bz2 raises OSError; a local name that is no text, ValueError
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError,
    OSError, ValueError,
)  # fmt: skip
_ENCRYPTED = 0x1  # general purpose bit flag, APPNOTE 4.4.4


class Archive:
    """A zip whose members have been looked at. Raises ConfigError for a hostile or broken one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
            raise ConfigError(f"{path}: is not a readable zip: {error}") from error
        try:
            self._members = self._checked()
        except ConfigError:
            self._zip.close()
            raise

    @property
    def files(self) -> list[PurePosixPath]:
        """Every file in the zip."""
        return list(self._members)

    def extract(self, folder: PurePosixPath, into: Path) -> None:
        """Writes what one trained model folder needs, under its path in the zip below `into`.

        Raises ConfigError where it is too large, too large for the disk, or damaged.
        """
        needed = {
            name: member
            for name, member in self._members.items()
            if name.is_relative_to(folder) and _is_needed(name.relative_to(folder))
        }
        self._require_room(needed, into)
        for name, member in needed.items():
            self._write(member, into / name)

    def __enter__(self) -> "Archive":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._zip.close()

    def _checked(self) -> dict[PurePosixPath, zipfile.ZipInfo]:
        members = self._zip.infolist()
        if len(members) > _MOST_MEMBERS:
            raise self._refused(f"it has {len(members)} members")
        found = dict[PurePosixPath, zipfile.ZipInfo]()
        for member in members:
            self._require_harmless(member)
            name = PurePosixPath(member.filename)
            if name in found:
                raise self._refused(f"{member.filename!r} is in it twice")
            if not member.is_dir():
                found[name] = member
        return found

    def _require_harmless(self, member: zipfile.ZipInfo) -> None:
        if not member.filename:
            raise self._refused("a member has no name")
        name = PurePosixPath(member.filename)
        outside = name.is_absolute() or ".." in name.parts
        if outside or "\\" in member.filename or ":" in member.filename:
            raise self._refused(f"{member.filename!r} leads out of it")
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise self._refused(f"{member.filename!r} is a link or a device, not a file")
        if member.flag_bits & _ENCRYPTED:
            raise self._refused(f"{member.filename!r} is encrypted; decrypt it first")
        if name.name in _TEXTS and member.file_size > _LARGEST_TEXT:
            raise self._refused(f"{member.filename!r} claims {member.file_size} bytes")

    def _require_room(self, needed: dict[PurePosixPath, zipfile.ZipInfo], into: Path) -> None:
        total = sum(member.file_size for member in needed.values())
        if total > _LARGEST_TOTAL:
            raise self._refused(f"the model claims {total} bytes, over {_LARGEST_TOTAL}")
        free = shutil.disk_usage(into).free
        if total > free:
            raise ConfigError(
                f"{self._path}: the model unpacks to {total} bytes, and the disk of {into.parent} "
                f"has {free} free; make room, or give another folder (--to)"
            )

    def _write(self, member: zipfile.ZipInfo, path: Path) -> None:
        """zipfile gives no more than the bytes that the member claims, and checks their sum."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                for part in self._unpacked(member):
                    file.write(part)
        except OSError as why:
            raise ConfigError(f"{path}: cannot be written: {why.strerror or why}") from why

    def _unpacked(self, member: zipfile.ZipInfo) -> Iterator[bytes]:
        try:
            with self._zip.open(member) as packed:
                while part := packed.read(2**20):
                    yield part
        except _BROKEN as why:
            raise ConfigError(f"{self._path}: {member.filename!r} is damaged: {why}") from why

    def _refused(self, reason: str) -> ConfigError:
        return ConfigError(f"{self._path}: refused, nothing was unpacked: {reason}")


def _is_needed(name: PurePosixPath) -> bool:
    """plans.json, dataset.json, model.toml, fold_N/checkpoint; of a first stage inside, too."""
    parts = name.parts[1:] if name.parts[:1] == (PREVIOUS_STAGE,) else name.parts
    if len(parts) == 1:
        return parts[0] in _TEXTS
    return len(parts) == 2 and parts[0].startswith("fold_") and parts[1] in CHECKPOINTS
