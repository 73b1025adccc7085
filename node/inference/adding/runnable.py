"""Whether a model can be run here, before it is taken in; every refusal says why.

Loads torch and nnunetv2; call environment.prepare() before.
"""

from pathlib import Path

import torch

from node.core.errors import ConfigError
from node.inference.folder import PLANS
from node.inference.network import Checkpoint, build_network, load_weights
from node.inference.plans import Plan, read_plan

_LONGEST_REASON = 300  # characters; torch lists every parameter


class Architecture:
    """The network that a model's plans describe. Raises ConfigError where they describe none."""

    def __init__(self, folder: Path, configuration: str) -> None:
        self._plans_path = folder / PLANS
        plan = read_plan(folder, configuration)
        self.name = str(plan.architecture["network_class_name"]).rpartition(".")[2]
        self._network = self._build(plan)
        self._require_scores(plan)

    def require_fit(self, checkpoint: Checkpoint, path: Path) -> None:
        """Whether one fold's weights belong to this network. Raises ConfigError."""
        try:
            load_weights(self._network, checkpoint, path)
        except ConfigError as error:
            raise ConfigError(
                f"{path}: the weights are not those of the {self.name} in {PLANS}; the trainer "
                f"{checkpoint.trainer or '(unnamed)'} probably builds a network of its own, which "
                f"cannot be run here: {_shortened(error.__cause__)}"
            ) from error

    def _build(self, plan: Plan) -> torch.nn.Module:
        return build_network(
            plan.architecture, plan.input_channels, plan.heads.count, self._plans_path
        )

    def _require_scores(self, plan: Plan) -> None:
        """One patch through the network: shapes only, or in full where that cannot be told."""
        wanted = (1, plan.heads.count, *plan.patch_size)
        try:
            try:
                found = _output_shape(self._build(plan), plan, "meta")
            except Exception:  # not every operator knows its shapes without computing
                found = _output_shape(self._network, plan, "cpu")
        except Exception as error:  # the plans' arguments reach other people's operators
            raise ConfigError(
                f"{self._plans_path}: {self.name} cannot be run on its patch size "
                f"{plan.patch_size}: {_shortened(error)}"
            ) from error
        if found != wanted:
            raise ConfigError(
                f"{self._plans_path}: {self.name} answers {wanted[2:]} voxels with {found}, not "
                f"with a score for each of {wanted[1]} labels and voxel: it segments nothing"
            )


def _output_shape(network: torch.nn.Module, plan: Plan, device: str) -> tuple[int, ...]:
    patch = torch.zeros((1, plan.input_channels, *plan.patch_size), device=device)
    with torch.inference_mode():
        return tuple(network.to(device)(patch).shape)


def _shortened(error: BaseException | None) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]} …"
