"""What every test may use. Real data lie beside the repository and are not part of it."""

import os
from pathlib import Path

import pytest

from node.inference import environment

environment.prepare(threads=0)  # before any test module imports torch

_SHARED = Path(__file__).parents[2] / "shared"


def _shared(name: str) -> Path:
    folder = _SHARED / name
    if not folder.is_dir():
        reason = f"needs {folder}, which is not on this machine"
        if os.environ.get("REQUIRE_SHARED") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real inputs, see its README.md."""
    return _shared("data")


@pytest.fixture(scope="session")
def shared_models() -> Path:
    """The folder of trained nnU-Net v2 models."""
    return _shared("models")
