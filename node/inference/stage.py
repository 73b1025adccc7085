"""One trained configuration, resident on a device: arrays in, logits, labels out.

Most models are one stage; a cascade is two.
"""

import importlib.util
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import structlog
import torch
from numpy.typing import NDArray

from node.core.errors import ConfigError
from node.core.model import Model, Tell
from node.inference.backends import Network
from node.inference.backends.torch_network import TorchNetwork
from node.inference.crew import Crew
from node.inference.export import export
from node.inference.folder import PLANS, checkpoint_path
from node.inference.network import Checkpoint, build_network, load_weights, read_checkpoint
from node.inference.out_of_memory import is_out_of_memory
from node.inference.plans import Heads, Plan, Rule, read_plan
from node.inference.predictor import Predictor
from node.inference.preprocess import Case, preprocess
from node.inference.probabilities import probabilities

_GPU_BATCH_VOXELS = 2**21  # one patch of 128³; smaller patches go several at a time
_GPU_LARGEST_BATCH = 8

T = TypeVar("T")
Export = Callable[[torch.Tensor, Case, Rule, Heads, Crew], T]

log = structlog.get_logger()


class Stage:
    """The plan and the networks of one Model. Raises ConfigError where they cannot be used.

    backend: "torch", "openvino" or "auto". cache: where converted networks are kept.
    """

    def __init__(
        self, model: Model, device: torch.device, threads: int, backend: str, cache: Path | None
    ) -> None:
        self.plan = read_plan(model.folder, model.configuration)
        checkpoints = [
            read_checkpoint(checkpoint_path(model.folder, fold, model.checkpoint_name))
            for fold in model.folds
        ]
        axes = _mirror_axes(model, self.plan, checkpoints[0])
        self._networks = _networks(model, self.plan, checkpoints, device, threads, backend, cache)
        self._predictor = Predictor(
            self.plan,
            self._networks,
            axes,
            model.profile,
            _batch(self.plan, device),
        )
        # On a GPU one thread is enough: more would each need memory for a block, and cuBLAS's.
        self._crew = Crew(threads if device.type == "cpu" else 1)

    def prepare(
        self,
        arrays: Sequence[NDArray[np.float32]],
        spacing_mm: Sequence[float],
        previous: NDArray[np.generic] | None = None,
    ) -> Case:
        """As preprocess.preprocess."""
        return preprocess(arrays, spacing_mm, self.plan, previous)

    def logits(self, case: Case, tell: Tell) -> torch.Tensor:
        """As Predictor.logits."""
        return self._predictor.logits(case, tell)

    def labels(self, logits: torch.Tensor, case: Case) -> NDArray[Any]:
        """uint8 or uint16 labels (slice, row, column), the axes as in the arrays prepared."""
        found = self._exported(export, logits, case).numpy()
        numbers = found.view(np.uint16) if self.plan.heads.needs_16_bits else found
        return numbers.transpose(self.plan.transpose_backward)

    def probabilities(self, logits: torch.Tensor, case: Case) -> dict[int, NDArray[np.uint8]]:
        """By label: uint8 (slice, row, column), 255 is certain, the axes as in `labels`."""
        found = self._exported(probabilities, logits, case)
        back = self.plan.transpose_backward
        return {label: one.numpy().transpose(back) for label, one in found.items()}

    def _exported(self, export: Export[T], logits: torch.Tensor, case: Case) -> T:
        """On the device that has the logits, or on the CPU where that has no memory for it."""
        rule, heads = self.plan.logits_rule, self.plan.heads
        try:
            return export(logits, case, rule, heads, self._crew)
        except RuntimeError as error:
            if logits.device.type == "cpu" or not is_out_of_memory(error):
                raise
            log.warning("out of memory; exported on the CPU", error=str(error).partition("\n")[0])
        return export(logits.cpu(), case, rule, heads, self._crew)

    def warm_up(self) -> None:
        """One patch of noise through each network."""
        noise = torch.rand(self.plan.input_channels, *self.plan.patch_size)
        for network in self._networks:
            for _ in network.run([noise], 1):
                pass

    def close(self) -> None:
        """Frees what the stage holds."""
        for network in self._networks:
            network.close()
        self._crew.close()


def _networks(
    model: Model,
    plan: Plan,
    checkpoints: Sequence[Checkpoint],
    device: torch.device,
    threads: int,
    backend: str,
    cache: Path | None,
) -> list[Network]:
    modules = [
        partial(_module, model, plan, fold, checkpoint)
        for fold, checkpoint in zip(model.folds, checkpoints, strict=True)
    ]
    if use_openvino(backend, device):
        try:
            return _openvino_networks(model, plan, modules, threads, cache)
        except ConfigError:
            raise
        except Exception as error:  # the converter raises whatever it likes
            if is_out_of_memory(error):
                raise
            if backend == "openvino":
                raise ConfigError(f"{model.folder}: OpenVINO cannot run it: {error}") from error
            log.warning("OpenVINO cannot run the model; torch does", model=model.name, error=error)
    return [TorchNetwork(build(), device) for build in modules]


def _openvino_networks(
    model: Model,
    plan: Plan,
    modules: Sequence[partial[torch.nn.Module]],
    threads: int,
    cache: Path | None,
) -> list[Network]:
    from node.inference.backends import openvino_network

    shape = (plan.input_channels, *plan.patch_size)
    example = _smallest_input(plan)
    return [
        openvino_network.load(
            build, shape, threads, cache, f"{model.fingerprint} fold {fold}", example
        )
        for fold, build in zip(model.folds, modules, strict=True)
    ]


def _smallest_input(plan: Plan) -> tuple[int, ...] | None:
    """A U-Net takes any patch that its strides divide; of other networks nobody knows."""
    strides = plan.architecture["arch_kwargs"].get("strides")
    if not strides:
        return None
    together = np.prod(
        np.broadcast_to(np.array(strides).T, (len(plan.patch_size), len(strides))), 1
    )
    smallest = [min(2 * int(n), size) for n, size in zip(together, plan.patch_size, strict=True)]
    return plan.input_channels, *smallest


def _module(model: Model, plan: Plan, fold: str, checkpoint: Checkpoint) -> torch.nn.Module:
    network = build_network(
        plan.architecture, plan.input_channels, plan.heads.count, model.folder / PLANS
    )
    load_weights(network, checkpoint, checkpoint_path(model.folder, fold, model.checkpoint_name))
    return network


def use_openvino(backend: str, device: torch.device) -> bool:
    """Raises ConfigError where it was asked for and cannot be."""
    if backend == "torch":
        return False
    if device.type != "cpu":
        if backend == "openvino":
            raise ConfigError(f'inference.backend = "openvino" runs on the CPU, not on {device}')
        return False
    if importlib.util.find_spec("openvino") is not None:
        return True
    if backend == "openvino":
        raise ConfigError(
            'inference.backend = "openvino", but it is not installed: '
            'pip install "segnode[openvino]"'
        )
    return False


def _mirror_axes(model: Model, plan: Plan, checkpoint: Checkpoint) -> tuple[int, ...] | None:
    """As training allowed them. Raises ConfigError for axes that the patch does not have."""
    axes = checkpoint.mirror_axes or ()
    if len(set(axes)) < len(axes) or not set(axes) <= set(range(len(plan.patch_size))):
        raise ConfigError(
            f"{model.folder}: its checkpoint mirrors the axes {axes}, but the patch has "
            f"{len(plan.patch_size)}"
        )
    return checkpoint.mirror_axes


def _batch(plan: Plan, device: torch.device) -> int:
    """Patches at a time: on a GPU small ones leave it idle, on a CPU one fills the cores."""
    if device.type == "cpu":
        return 1
    fit = _GPU_BATCH_VOXELS // int(np.prod(plan.patch_size))
    return max(1, min(fit, _GPU_LARGEST_BATCH))
