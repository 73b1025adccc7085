"""A disk that fails when it is told to: the operating system's answers, in another process.

Python imports `sitecustomize` at its start; ours lets os.pread and others raise EIO while a file of
their name lies beside it.
"""

import os
from pathlib import Path

import pytest

_SITECUSTOMIZE = """
import errno, os
_FOLDER = os.path.dirname(__file__)
_exists = os.path.exists

def _spoil(name):
    call = getattr(os, name)
    def spoilt(*arguments, **keywords):
        if _exists(os.path.join(_FOLDER, name)):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return call(*arguments, **keywords)
    setattr(os, name, spoilt)

for _name in ("pread", "statvfs", "writev", "fsync", "fdatasync"):
    _spoil(_name)
"""


class FaultyDisk:
    """Processes that are started from now on have it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(_SITECUSTOMIZE)
        paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))

    def fail(self, call: str) -> None:
        """From now on this call raises EIO."""
        (self._folder / call).touch()

    def heal(self, call: str) -> None:
        (self._folder / call).unlink()
