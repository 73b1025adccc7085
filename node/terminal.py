"""What every command shares: the configuration option, printing, ending with a sentence."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from node.core import config as configuration
from node.core.config import Config
from node.logs import configure_logging

out = Console(highlight=False, soft_wrap=True)

ConfigPath = Annotated[
    Path, typer.Option("--config", "-c", envvar="SEGNODE_CONFIG", help="The configuration file.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
DEFAULT_CONFIG = Path("node.toml")


def load(path: Path) -> Config:
    settings = configuration.load(path)
    configure_logging(settings.log.format, settings.log.level)
    return settings


def print_json(values: Any) -> None:
    print(json.dumps(values, indent=2))


def note(sentence: str) -> None:
    print(f"note: {sentence}", file=sys.stderr)


def fail(sentence: str) -> NoReturn:
    print(f"segnode: {sentence}", file=sys.stderr)
    sys.exit(1)


def require_folder(folder: Path) -> None:
    """Ends the command where there is no such folder."""
    if not folder.is_dir():
        fail(f"{folder}: there is no such folder")


def cache_folder() -> Path:
    """Where a command without a data folder keeps what it made once (XDG Base Directory)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache")).expanduser() / "segnode"
