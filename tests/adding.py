"""What tests of `segnode models add` share: zips of model folders, and refusals."""

import zipfile
from pathlib import Path
from typing import Any

import pytest

from node.core.errors import ConfigError
from node.inference.adding.add import add_model


def refusal(source: Path, models: Path, **named: Any) -> str:
    """Why the model is not added; nothing half-written stays in `models`."""
    with pytest.raises(ConfigError) as caught:
        add_model(source, models, **named)
    left = [path.name for path in models.iterdir()] if models.exists() else []
    assert not [name for name in left if name.startswith(".")], "nothing half-written stays"
    return str(caught.value)


def zipped(home: Path, path: Path, packed_by: int = zipfile.ZIP_STORED, below: str = "") -> Path:
    """Every file below `home` in a zip at `path`, there in the folder `below`."""
    with zipfile.ZipFile(path, "w", packed_by) as archive:
        for file in sorted(home.rglob("*")):
            archive.write(file, below + file.relative_to(home).as_posix())
    return path
