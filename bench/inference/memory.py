"""What this process holds of the machine's memory, bytes, as the kernel counts it."""

from pathlib import Path


def resident() -> int:
    """What the process holds now."""
    return _status("VmRSS")


def forget_peak() -> None:
    """The peak is what is held now, from here on (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """The most that the process has held since its start or `forget_peak`."""
    return _status("VmHWM")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
