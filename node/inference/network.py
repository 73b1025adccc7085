"""Networks and their weights, from plans.json and checkpoints that nobody has to trust.

Checkpoints are read with weights_only=True, and the network is built from the plans: trainer
classes are never imported.
"""

import inspect
import json
import pickle
import pydoc
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from safetensors import SafetensorError
from torch import nn

from node.core.errors import ConfigError
from node.inference.checkpoint import SAFETENSORS, read_metadata
from node.inference.out_of_memory import is_out_of_memory

_ALLOWED_PACKAGES = ("dynamic_network_architectures.", "torch.nn.")
_U_NETS = "dynamic_network_architectures.architectures.unet"
_WRAPPERS = re.compile(r"^(module\.|_orig_mod\.)+")  # left by DistributedDataParallel and compile


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """One fold: weights by parameter name, and the spatial axes that may be mirrored, or None."""

    weights: dict[str, torch.Tensor]
    mirror_axes: tuple[int, ...] | None
    trainer: str


def read_checkpoint(path: Path) -> Checkpoint:
    """A checkpoint as training or `segnode models add` wrote it; nothing in it is run.

    Raises ConfigError for one that is damaged or names anything but tensors and plain numbers.
    """
    if path.suffix == SAFETENSORS:
        return _read_safetensors(path)
    try:
        with torch.serialization.safe_globals(_harmless()):
            tree = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return _checkpoint(tree)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        found = named.group(1) if named else str(error).splitlines()[0]
        raise ConfigError(
            f"{path}: refused: it holds more than weights and numbers ({found}), which could run "
            "code while it is read; take the checkpoint from someone you trust"
        ) from error
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
        if is_out_of_memory(error):
            raise
        raise ConfigError(f"{path}: is not a readable nnU-Net v2 checkpoint: {error}") from error


def _checkpoint(tree: Any) -> Checkpoint:
    # Cloned, so that neither the optimizer's state nor the file stays mapped.
    weights = {_WRAPPERS.sub("", k): v.clone() for k, v in tree["network_weights"].items()}
    axes = tree.get("inference_allowed_mirroring_axes")
    return Checkpoint(
        weights=weights,
        mirror_axes=tuple(int(axis) for axis in axes) if axes else None,
        trainer=str(tree.get("trainer_name", "")),
    )


def _read_safetensors(path: Path) -> Checkpoint:
    metadata = read_metadata(path)
    try:
        mapped = safetensors.torch.load_file(path)
        weights = {name: tensor.clone() for name, tensor in mapped.items()}
        weights |= {name: weights[as_] for name, as_ in json.loads(metadata["same"]).items()}
        axes = json.loads(metadata["inference_allowed_mirroring_axes"])
        return Checkpoint(
            weights=weights,
            mirror_axes=tuple(int(axis) for axis in axes) if axes else None,
            trainer=metadata["trainer_name"],
        )
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"{path}: is damaged: {error!r}; add the model again with `segnode models add`"
        ) from error


def _harmless() -> list[Any]:
    """The numpy types in what training logs, under the names of numpy 1 and numpy 2."""
    rebuild_scalar, rebuild_array = np.float32(0).__reduce__()[0], np.empty(0).__reduce__()[0]
    functions = [
        (function, f"numpy.{core}.multiarray.{name}")
        for core in ("core", "_core")
        for function, name in ((rebuild_scalar, "scalar"), (rebuild_array, "_reconstruct"))
    ]
    dtypes = {type(np.dtype(code)) for code in "?bBhHiIlLqQefd"}
    return [np.ndarray, np.dtype, *dtypes, *functions]


def build_network(
    architecture: Mapping[str, Any], channels: int, heads: int, plans_path: Path
) -> nn.Module:
    """The network that the plans' `architecture` describes, without weights.

    Raises ConfigError where it names a class outside dynamic_network_architectures and torch.nn,
    or arguments that fit no network.
    """
    try:
        name, arguments = architecture["network_class_name"], architecture["arch_kwargs"]
        imported = list(architecture["_kw_requires_import"])
        for class_name in [name, *(arguments[key] for key in imported)]:
            _refuse_foreign_class(class_name, plans_path)
        name = _moved(name)
        network: nn.Module = get_network_from_plans(
            name, arguments, imported, channels, heads, False, _deep_supervision(name)
        )
    except ConfigError:
        raise
    except Exception as error:  # the plans' arguments reach other people's constructors
        if is_out_of_memory(error):
            raise
        raise ConfigError(f"{plans_path}: describes no network: {error!r}") from error
    return network.eval()


def _moved(name: str) -> str:
    """Where the class lies today: nnU-Net's names for older plans are those of older packages.

    nnU-Net itself looks through the whole package, which imports all that it could need.
    """
    today = f"{_U_NETS}.{name.rpartition('.')[2]}"
    return today if pydoc.locate(name) is None and pydoc.locate(today) is not None else name


def _deep_supervision(name: str) -> bool | None:
    """Off where the network's class has that switch; None, unsaid, where it has not (Primus)."""
    found = pydoc.locate(name)
    known = inspect.signature(found).parameters if inspect.isclass(found) else {}
    return None if known and "deep_supervision" not in known else False


def _refuse_foreign_class(name: Any, plans_path: Path) -> None:
    """Raises ConfigError unless `name` is None or leads to a network class of the two packages.

    The class is looked at too: "torch.nn.modules.module.warnings.sys" begins well.
    """
    if name is None:
        return
    allowed = isinstance(name, str) and name.startswith(_ALLOWED_PACKAGES)
    found = pydoc.locate(name) if allowed else None
    if found is not None:  # else nnU-Net looks for it in dynamic_network_architectures
        module = isinstance(found, type) and issubclass(found, nn.Module)
        allowed = module and found.__module__.startswith(_ALLOWED_PACKAGES)
    if not allowed:
        raise ConfigError(
            f"{plans_path}: refused: the architecture names {name!r}; only classes of "
            "dynamic_network_architectures and torch.nn are built"
        )


def load_weights(network: nn.Module, checkpoint: Checkpoint, path: Path) -> None:
    """Puts one fold's weights into the network. Raises ConfigError where they do not fit."""
    try:
        network.load_state_dict(checkpoint.weights)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise ConfigError(f"{path}: does not fit the network in plans.json: {error}") from error
