"""Where a network runs. Each backend is a Network; everything around it is the same for all."""

from collections.abc import Generator, Iterable
from typing import Protocol

import torch


class Network(Protocol):
    """One fold's network, resident on its device."""

    device: torch.device

    def run(self, patches: Iterable[torch.Tensor], batch: int) -> Generator[torch.Tensor]:
        """A prediction (head, *patch) for each float32 patch (channel, *patch), in their order.

        At most `batch` patches go through the network together. A prediction may be written to,
        and is gone when the next is asked for. Raises torch.OutOfMemoryError, MemoryError.
        """
        ...

    def on_cpu(self) -> "Network":
        """One on the CPU with the same answers, for when the device has no memory left.

        A copy that lives apart from this one; itself where it can run nowhere else.
        """
        ...

    def close(self) -> None:
        """Frees the device's memory. The network is not used again."""
        ...
