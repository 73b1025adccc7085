"""Weights as safetensors: a file that holds tensors and texts, and nothing that could run.

The layout, "segnode-1": one file per fold, fold_N/checkpoint_final.safetensors. Its metadata are
texts: format, configuration, trainer_name, inference_allowed_mirroring_axes (JSON, may be null)
and same (JSON: names whose tensor is stored under another name; nnU-Net's networks list most
parameters two to four times).
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError

from node.core.errors import ConfigError
from node.inference.checkpoint import FORMAT
from node.inference.network import Checkpoint, read_checkpoint


def write_checkpoint(path: Path, checkpoint: Checkpoint, configuration: str) -> None:
    """Writes one fold, fsynced; the same weights give the same bytes, dtypes stay as they are.

    Raises ConfigError where what was written does not read back bit for bit.
    """
    stored, same = _without_copies(checkpoint.weights)
    metadata = {
        "format": FORMAT,
        "configuration": configuration,
        "trainer_name": checkpoint.trainer,
        "inference_allowed_mirroring_axes": json.dumps(checkpoint.mirror_axes),
        "same": json.dumps(same),
    }
    try:
        path.touch()
        mode = path.stat().st_mode  # the library's own is for the owner alone
        safetensors.torch.save_file(stored, path, metadata)
        path.chmod(mode)
        _sort_header(path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path}: cannot be written: {error}") from error
    _require_equal(read_checkpoint(path), checkpoint, path)


def _without_copies(
    weights: Mapping[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Each different tensor once, by the first of its names; and the other names with that one."""
    stored, same, first = dict[str, torch.Tensor](), dict[str, str](), dict[object, str]()
    for name in sorted(weights):
        tensor = weights[name].contiguous()
        content = (str(tensor.dtype), tuple(tensor.shape), _sha256(tensor))
        if content in first:
            same[name] = first[content]
        else:
            first[content], stored[name] = name, tensor
    return stored, same


def _sort_header(path: Path) -> None:
    """The library writes the metadata in a random order, and the fingerprint is of the bytes."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        if len(text) > length:
            raise ConfigError(f"{path}: its header cannot be put in order")
        file.seek(8)
        file.write(text.ljust(length))
        file.flush()
        os.fsync(file.fileno())


def _require_equal(found: Checkpoint, wanted: Checkpoint, path: Path) -> None:
    told = found.mirror_axes == wanted.mirror_axes and found.trainer == wanted.trainer
    if not told or found.weights.keys() != wanted.weights.keys():
        raise ConfigError(f"{path}: does not read back as it was written; look at the disk")
    for name, tensor in wanted.weights.items():
        other = found.weights[name]
        alike = other.dtype == tensor.dtype and other.shape == tensor.shape
        if not alike or _sha256(other) != _sha256(tensor):
            raise ConfigError(
                f"{path}: {name} does not read back as it was written; look at the disk"
            )


def _sha256(tensor: torch.Tensor) -> str:
    """Of the bytes: NaN equals itself, and 0 is not -0."""
    flat = tensor.detach().contiguous().flatten()
    return hashlib.sha256(flat.view(torch.uint8).numpy().tobytes()).hexdigest()
