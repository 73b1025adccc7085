"""How much memory the device of a worker has to spare. Only the worker process asks."""

import contextlib
import ctypes
from pathlib import Path
from typing import Any, Protocol

_LEAK_BYTES = 256_000_000  # less than this is torch's rounding
_CGROUP = Path("/sys/fs/cgroup")


class DeviceMemory(Protocol):
    """The memory of one device, which this process shares with others."""

    def free_bytes(self) -> int:
        """What could still be taken."""
        ...

    def give_back(self) -> None:
        """Returns to the device what this process keeps and does not use."""
        ...

    def leaked(self, held_bytes: int) -> bool:
        """Whether more is in use, now that no request is, than the models that rest here hold."""
        ...


def memory_of(device: str) -> DeviceMemory:
    """Of "auto", "cpu", "cuda" or "cuda:N", resolved as torch does. Imports torch."""
    import torch

    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return HostMemory()
    return CudaMemory(torch.device("cuda" if device == "auto" else device))


class HostMemory:
    """The machine's own, or what the container's limit leaves of it."""

    def free_bytes(self) -> int:
        self.give_back()  # or it would count as used
        available = _fields(Path("/proc/meminfo"))["MemAvailable:"] * 1024
        with contextlib.suppress(OSError, ValueError, KeyError):  # no limit, or another system
            limit = int((_CGROUP / "memory.max").read_text())
            used = int((_CGROUP / "memory.current").read_text())
            unused_cache = _fields(_CGROUP / "memory.stat")["inactive_file"]
            available = min(available, limit - used + unused_cache)
        return max(available, 0)

    def give_back(self) -> None:
        """The C library keeps what was freed: see footprint.keep_freed_memory."""
        with contextlib.suppress(OSError, AttributeError):  # not glibc
            ctypes.CDLL("libc.so.6").malloc_trim(0)

    def leaked(self, held_bytes: int) -> bool:
        """An allocation that fails here was never made."""
        return False


class CudaMemory:
    """A GPU's, as NVML sees it, or as CUDA does where nvidia-ml-py is not installed."""

    def __init__(self, device: Any) -> None:
        import torch

        self._cuda, self._device = torch.cuda, device
        self._uuid = str(getattr(torch.cuda.get_device_properties(device), "uuid", ""))

    def free_bytes(self) -> int:
        kept = self._cuda.memory_reserved(self._device) - self._cuda.memory_allocated(self._device)
        return self._free_on_device() + kept  # what torch keeps for itself, it can use again

    def give_back(self) -> None:
        self._cuda.empty_cache()

    def leaked(self, held_bytes: int) -> bool:
        return bool(self._cuda.memory_allocated(self._device) > held_bytes + _LEAK_BYTES)

    def _free_on_device(self) -> int:
        with contextlib.suppress(Exception):  # not installed, no driver, or a part of a GPU (MIG)
            import pynvml

            pynvml.nvmlInit()
            handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{self._uuid}")
            return int(pynvml.nvmlDeviceGetMemoryInfo(handle).free)
        free, _ = self._cuda.mem_get_info(self._device)
        return int(free)


def _fields(path: Path) -> dict[str, int]:
    """The first number of each line by its first word."""
    words = (line.split() for line in path.read_text().splitlines())
    return {line[0]: int(line[1]) for line in words if len(line) > 1}
