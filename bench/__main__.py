"""`python -m bench`: measures the main job and rewrites docs/benchmarks.md."""

import os
import platform
import subprocess
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from bench import accuracy, main_job
from bench.figure import Figure

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
PACKAGES = ("torch", "nnunetv2", "highdicom", "pydicom", "pynetdicom", "sqlalchemy", "numpy")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        figures = [*main_job.measure(Path(folder)), *accuracy.measure(Path(folder))]
    PAGE.write_text(_page(figures), encoding="utf-8")
    print(PAGE.read_text(encoding="utf-8"))


def _page(figures: Sequence[Figure]) -> str:
    rows = [
        f"| {figure.what} | {figure.aim} | {figure.measured} | {figure.how} |" for figure in figures
    ]
    return "\n".join(
        [
            "# Benchmarks",
            "",
            "Written by `make bench`. Medians of several runs on one machine; the machine is",
            "shared and noisy, so compare what stands in one table.",
            "",
            f"- Machine: {_machine()}",
            f"- Versions: {', '.join(f'{name} {version(name)}' for name in PACKAGES)},",
            f"  Python {platform.python_version()}, Orthanc {_orthanc()}",
            "",
            "| what | aim | measured | how |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return (
        f"{os.cpu_count()} × {names[0] if names else platform.machine()}, {pages >> 30} GiB, no GPU"
    )


def _orthanc() -> str:
    done = subprocess.run(["Orthanc", "--version"], capture_output=True, text=True, check=False)
    return done.stdout.split()[1] if done.stdout else "not installed"


main()
