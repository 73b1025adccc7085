"""What a checkpoint says about itself, read without torch and without running anything in it."""

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

from node.core.errors import ConfigError

_LARGEST_HEADER = 256 * 2**20  # bytes; the weights are not in it


class _Inert:
    """Stands for every object in the pickle: takes anything, does nothing."""

    def __init__(self, *arguments: Any) -> None:
        """Whatever the pickle passes is dropped."""

    def __setstate__(self, state: Any) -> None:
        """So is the state."""


class _InertUnpickler(pickle.Unpickler):
    """Reads the containers, texts and numbers of a pickle; imports and calls nothing it names."""

    def find_class(self, module_name: str, global_name: str) -> type:
        return OrderedDict if global_name == "OrderedDict" else _Inert

    def persistent_load(self, pid: Any) -> None:
        return None


def trained_configuration(path: Path) -> str:
    """The nnU-Net configuration that was trained, such as "3d_fullres".

    It stands in the checkpoint's init_args and nowhere else for certain. Raises ConfigError.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            checkpoint = _read_header(archive)
        configuration = checkpoint["init_args"]["configuration"]
    except Exception as error:  # a damaged or hostile pickle raises whatever it likes
        raise ConfigError(f"{path}: is not an nnU-Net v2 checkpoint: {error!r}") from error
    if not isinstance(configuration, str):
        raise ConfigError(f"{path}: names no configuration in init_args")
    return configuration


def _read_header(archive: zipfile.ZipFile) -> Any:
    header = next(item for item in archive.infolist() if item.filename.endswith("/data.pkl"))
    if header.file_size > _LARGEST_HEADER:
        raise ValueError(f"its data.pkl claims {header.file_size} bytes")
    with archive.open(header) as file:
        return _InertUnpickler(file).load()
