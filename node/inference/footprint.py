"""What this process holds of a device's memory, and how it treats what it frees."""

import contextlib
import ctypes
import gc
import os
from pathlib import Path

import torch

# <malloc.h>
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER = 2**31 - 1  # bytes


def held_bytes(device: torch.device) -> int:
    """Of the GPU's memory by torch; for the CPU, of the machine's memory by this process."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    _give_back()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _give_back() -> None:
    """What is free already goes back to the kernel: it is not held."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def keep_freed_memory() -> None:
    """Lets the C library reuse large blocks instead of handing them back to the kernel.

    Every layer's output is some 100 MB; given back and asked for again, each page of it is
    zeroed and mapped anew, which took a third of torch's time on the CPU. Does nothing where the
    C library is not glibc.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, _NEVER)
