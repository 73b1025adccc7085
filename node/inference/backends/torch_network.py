"""torch, on CUDA or on the CPU."""

import copy
from collections.abc import Generator, Iterable, Iterator
from itertools import islice

import torch
from torch import nn


class TorchNetwork:
    """A Network that torch runs: half precision where CUDA has it, float32 on the CPU."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self.device = device
        self._module = module.to(device).eval()
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = True
            torch.backends.cuda.matmul.allow_tf32 = False  # export interpolates with products
        elif torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
            _always_one_dnn(self._module)

    def run(self, patches: Iterable[torch.Tensor], batch: int) -> Generator[torch.Tensor]:
        """As Network.run. On CUDA every batch has the same shape: cuDNN chooses once."""
        waiting = iter(patches)
        while together := list(islice(waiting, batch)):
            yield from self._forward(together, batch)

    def on_cpu(self) -> "TorchNetwork":
        """As Network.on_cpu."""
        module = copy.deepcopy(self._module, _on_cpu(self._module))
        return TorchNetwork(module, torch.device("cpu"))

    def close(self) -> None:
        """As Network.close."""
        self._module = nn.Identity()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _forward(self, patches: list[torch.Tensor], batch: int) -> Iterator[torch.Tensor]:
        count = len(patches)
        if self.device.type == "cuda":
            patches = patches + patches[-1:] * (batch - count)
        x = torch.stack(patches).to(self.device)
        with torch.inference_mode(), self._precision():
            predictions = self._module(x)
        for number in range(count):
            yield predictions[number]

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, enabled=self.device.type == "cuda")


def _on_cpu(module: nn.Module) -> dict[int, object]:
    """What deepcopy is to take for each tensor: its copy on the CPU, not one beside it."""
    tensors = [*module.parameters(), *module.buffers()]
    return {
        id(tensor): nn.Parameter(tensor.detach().cpu().clone(), requires_grad=False)
        if isinstance(tensor, nn.Parameter)
        else tensor.detach().cpu().clone()
        for tensor in tensors
    }


def _always_one_dnn(module: nn.Module) -> None:
    """torch leaves oneDNN out for small inputs of batch 1, where its own way takes twice as long.

    The rule is `use_mkldnn` in ATen/native/Convolution.cpp.
    """
    for part in module.modules():
        if type(part) is nn.Conv3d and part.padding_mode == "zeros" and _has_numbers(part):
            part.__class__ = _OneDnnConv3d


def _has_numbers(part: nn.Conv3d) -> bool:
    return not isinstance(part.padding, str)


class _OneDnnConv3d(nn.Conv3d):
    """The same convolution, always by oneDNN."""

    @property
    def _numbers(self) -> tuple[int, ...]:
        assert not isinstance(self.padding, str)
        return self.padding

    def _conv_forward(
        self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        found: torch.Tensor = torch.mkldnn_convolution(
            input, weight, bias, self._numbers, self.stride, self.dilation, self.groups
        )
        return found
