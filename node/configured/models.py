"""The Models of the configuration, and the engine that runs them."""

from collections.abc import Mapping
from pathlib import Path

from node.core.config import Config
from node.core.errors import ConfigError
from node.core.model import Model
from node.inference.engine import WorkerEngine
from node.inference.model import load_model


def models_of(config: Config) -> Mapping[str, Model]:
    """Every Model of the configuration, read from its folder. Raises ConfigError."""
    models = {
        name: load_model(name, section.path, section.orientation, section.profile)
        for name, section in config.models.items()
    }
    seen: dict[str, str] = {}
    for model in models.values():
        if model.fingerprint in seen:  # two objects would get one SOP Instance UID
            raise ConfigError(
                f"models.{model.name}: is the same model as models.{seen[model.fingerprint]}; "
                "let both routes name one of them"
            )
        seen[model.fingerprint] = model.name
    return models


def engine_of(config: Config, models: Mapping[str, Model], cache: Path) -> WorkerEngine:
    """The worker processes of the configuration, not started yet. cache: of converted networks."""
    section = config.inference
    return WorkerEngine(
        models,
        section.device,
        section.threads,
        section.timeout_seconds,
        workers=section.workers,
        heartbeat_seconds=section.heartbeat_seconds,
        backend=section.backend,
        cache=cache,
        memory_bytes=section.memory_mb * 1_000_000,
    )
