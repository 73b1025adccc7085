"""The command as a person runs it: in a process of its own, whose log is its own."""

import os
import subprocess
import sys
from pathlib import Path

from tests.peers import DEMO_MODEL

REPOSITORY = Path(__file__).parent.parent
# Nothing of it runs: the command reads what is stored.
CONFIG = f"""
[node]
data_dir = "."
[peers.pacs]
ae_title = "ORTHANC"
host = "127.0.0.1"
port = 1
[closing]
settle_seconds = 60.0
quiet_seconds = 90.0
[models.hippocampus]
path = "{DEMO_MODEL}"
[[routes]]
name = "brain MR"
model = "hippocampus"
send_to = ["pacs"]
when.Modality = "MR"
"""


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


def run_in(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """The same with the node.toml of a folder, and nothing else of the environment."""
    return subprocess.run(
        [sys.executable, "-m", "node", *arguments],
        capture_output=True, text=True, cwd=REPOSITORY, timeout=120, check=False,
        env={"SEGNODE_CONFIG": str(folder / "node.toml"), "PATH": "/usr/bin"},
    )  # fmt: skip
