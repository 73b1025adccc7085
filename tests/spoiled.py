"""A model folder that a test spoils, and what the node says of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from node.core.errors import ConfigError
from node.inference.model import load_model


def set_keys(path: Path, **keys: Any) -> None:
    """Sets keys of a JSON file; a key set to None goes."""
    tree = {**json.loads(path.read_text()), **keys}
    path.write_text(json.dumps({key: value for key, value in tree.items() if value is not None}))


def refusal(folder: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_model("m", folder)
    return str(caught.value)
