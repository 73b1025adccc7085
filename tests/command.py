"""The command as a person runs it: in a process of its own, whose log is its own."""

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent


def segnode(*arguments: object) -> "subprocess.CompletedProcess[str]":
    """`segnode ARGUMENTS`."""
    return subprocess.run(
        [sys.executable, "-m", "node", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=REPOSITORY,
        env=os.environ | {"COLUMNS": "200"},
        check=False,
    )
