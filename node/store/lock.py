"""One node per data folder, held by an advisory lock that dies with its process."""

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from node.core.errors import ConfigError


class DataFolderLock:
    """Holds `node.lock` in a data folder from enter to exit; the file names the process."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / "node.lock"
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        """Raises ConfigError where another process holds the folder."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise ConfigError(f"node.data_dir: {error.filename}: {error.strerror}") from error
        try:
            _lock(descriptor)
        except OSError as error:
            holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise ConfigError(
                f"{self._path.parent}: another node (process {holder}) runs on this data folder; "
                "stop it, or give this one another node.data_dir"
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _lock(descriptor: int) -> None:
    """Takes the lock; a short wait, since `running_node` of another process may be looking."""
    for _ in range(10):
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            time.sleep(0.05)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def running_node(data_dir: Path) -> int | None:
    """The process id of the node that holds this data folder, if one does."""
    try:
        with (data_dir / "node.lock").open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                text = file.read().strip()
                return int(text) if text.isdigit() else None
    except OSError:
        pass
    return None
