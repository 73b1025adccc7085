"""What is asked of a disk in more than one place."""

import os
from pathlib import Path
from typing import Final

_OTHERS_NOTHING: Final = 0o027  # files 0640, folders 0750


def fsync_folder(folder: Path) -> None:
    """Makes the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def keep_from_others() -> None:
    """What this process and its children write is its user's and group's; a stricter umask stays.

    Of the whole process: call it before there are threads.
    """
    os.umask(os.umask(0o077) | _OTHERS_NOTHING)
