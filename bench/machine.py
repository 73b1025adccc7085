"""The machine that the figures come from, and the versions that matter."""

import os
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    "torch", "openvino", "nnunetv2", "highdicom", "pydicom", "pynetdicom", "sqlalchemy", "numpy",
)  # fmt: skip
_SIZE, _PRODUCTS = 2048, 10


def machine() -> str:
    """Cores, processor and memory."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return (
        f"{os.cpu_count()} × {names[0] if names else platform.machine()}, {pages >> 30} GiB, no GPU"
    )


def versions() -> str:
    """Of what the figures depend on."""
    packages = ", ".join(f"{name} {_version(name)}" for name in PACKAGES)
    return f"{packages}, Python {platform.python_version()}, Orthanc {_orthanc()}"


def matrix_gflops() -> float:
    """What all cores reach in a product of two large float32 matrices: the best of ten."""
    import torch  # only the process that measures loads it

    one, other = torch.rand(2, _SIZE, _SIZE)
    seconds = []
    for _ in range(_PRODUCTS):
        began = time.monotonic()
        torch.mm(one, other)
        seconds.append(time.monotonic() - began)
    return float(2 * _SIZE**3 / min(seconds) / 1e9)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _orthanc() -> str:
    try:
        done = subprocess.run(["Orthanc", "--version"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "not installed"
    return done.stdout.split()[1] if done.stdout else "not installed"
