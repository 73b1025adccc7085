"""Which devices there are, asked without torch: the node itself never imports it."""

import contextlib
import importlib.util
import os
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from node.inference.environment import cores

_DRIVER = Path("/proc/driver/nvidia/version")
NVML_MISSING = "a GPU driver is here, but nvidia-ml-py is not: pip install 'segnode[cuda]'"


@dataclass(frozen=True)
class Gpu:
    """One GPU that CUDA programs may use; cuda:N is its place in the list."""

    name: str
    memory_bytes: int


def resolve(device: str) -> list[str]:
    """One name per device to use. "auto": every GPU, else the CPU.

    Where NVML is not there to count, or counts one, "auto" is left to torch in the worker.
    """
    if device != "auto":
        return [device]
    count = len(gpus()) if torch_knows_cuda() else 0
    return [f"cuda:{number}" for number in range(count)] if count > 1 else ["auto"]


def gpus() -> list[Gpu]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves, in its order; none where NVML is not there."""
    with contextlib.suppress(Exception):  # not installed, or no driver
        import pynvml

        pynvml.nvmlInit()
        try:
            return [_gpu(pynvml, handle) for handle in _visible(pynvml)]
        finally:
            pynvml.nvmlShutdown()
    return []


def nvml_is_missing() -> bool:
    """Whether there is a GPU driver, and nothing to ask it with."""
    return _DRIVER.exists() and importlib.util.find_spec("pynvml") is None


def torch_knows_cuda() -> bool:
    """Whether the torch that is installed may be a CUDA build."""
    return not _version("torch").endswith("+cpu")


def sentence(device: str, threads: int, backend: str) -> str:
    """What `device` comes to on this machine. Raises ValueError where that is nothing."""
    found = gpus() if torch_knows_cuda() else []
    if device == "auto" and found:
        return ", ".join(_line(number, gpu) for number, gpu in enumerate(found))
    if device in ("auto", "cpu"):
        return f"CPU, {cores(threads)} threads, {_cpu_backend(backend)}"
    number = int(device.partition(":")[2] or 0)
    if number < len(found):
        return _line(number, found[number])
    if not torch_knows_cuda():
        raise ValueError(f"torch {_version('torch')} is a build without CUDA; install another")
    if not found and importlib.util.find_spec("pynvml") is None:
        return f"{device}, which only torch can look at here"
    raise ValueError(f"there is no {device}: {len(found)} GPUs are visible")


def _visible(pynvml: Any) -> list[Any]:
    """NVML handles in CUDA_VISIBLE_DEVICES's order; an entry that CUDA does not know ends it."""
    count: int = pynvml.nvmlDeviceGetCount()
    by_index = [pynvml.nvmlDeviceGetHandleByIndex(n) for n in range(count)]
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is None:
        return by_index
    handles = []
    for entry in (part.strip() for part in wanted.split(",")):
        if entry.isdigit() and int(entry) < count:
            handles.append(by_index[int(entry)])
        elif entry.startswith(("GPU-", "MIG-")):
            handles.append(pynvml.nvmlDeviceGetHandleByUUID(entry))
        else:
            break
    return handles


def _gpu(pynvml: Any, handle: Any) -> Gpu:
    name = pynvml.nvmlDeviceGetName(handle)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return Gpu(name.decode() if isinstance(name, bytes) else str(name), int(memory.total))


def _line(number: int, gpu: Gpu) -> str:
    return f"cuda:{number} {gpu.name}, {gpu.memory_bytes / 2**30:.0f} GiB"


def _cpu_backend(backend: str) -> str:
    """auto takes OpenVINO where it is installed."""
    if backend != "torch" and importlib.util.find_spec("openvino") is not None:
        return f"openvino {_version('openvino')}"
    if backend == "openvino":
        raise ValueError('inference.backend = "openvino", but it is not installed')
    return f"torch {_version('torch')}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"
