"""What a checkpoint says about itself, read without torch and without running anything in it."""

import json
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

from node.core.errors import ConfigError

SAFETENSORS = ".safetensors"
FORMAT = "segnode-1"  # the metadata that stand in our safetensors files

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
    if path.suffix == SAFETENSORS:
        return read_metadata(path)["configuration"]
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


def read_metadata(path: Path) -> dict[str, str]:
    """What `segnode models add` wrote beside the weights of a safetensors file.

    The file begins with the length of its JSON header, 8 bytes, little-endian. Raises ConfigError.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _LARGEST_HEADER:
                raise ValueError(f"its header claims {length} bytes")
            metadata = json.loads(file.read(length))["__metadata__"]
        if metadata["format"] != FORMAT or not isinstance(metadata["configuration"], str):
            raise ValueError(f"its format is not {FORMAT}")
    except (OSError, ValueError, KeyError, TypeError, struct.error, RecursionError) as error:
        raise ConfigError(
            f"{path}: is not a checkpoint that `segnode models add` wrote: {error!r}"
        ) from error
    return {str(key): str(value) for key, value in metadata.items()}
