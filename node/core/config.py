"""The configuration: one TOML file, one typed tree, `NODE_…__…` environment variables on top.

Every setting stands in config/node.toml with its default and a comment; a test keeps it so.
"""

import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import (
    BaseModel,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from node.core.errors import ConfigError
from node.core.sections import (
    ClosingSection,
    DatabaseSection,
    DeliverySection,
    DicomSection,
    InferenceSection,
    LogSection,
    ModelSection,
    NodeSection,
    PeerSection,
    RetentionSection,
    RouteSection,
    Section,
    SectionT,
    WebSection,
)
from node.core.suggest import did_you_mean

ENV_PREFIX = "NODE_"
ENV_DELIMITER = "__"
# What pydantic says in its own words, by its type of error.
_PLAIN = {
    "model_type": "should be a table of settings",
    "dict_type": "should be a table of settings",
    "tuple_type": 'should be a list, such as ["pacs"]',
}
_HIDDEN = ("password", "token", "url")  # never repeated: secrets, and where some write them


class Config(BaseSettings):
    """The whole configuration. Paths are absolute once `load` has returned it."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter=ENV_DELIMITER, extra="forbid", frozen=True
    )

    node: NodeSection = NodeSection()
    database: DatabaseSection = DatabaseSection()
    dicom: DicomSection = DicomSection()
    peers: dict[str, PeerSection] = {}
    closing: ClosingSection = ClosingSection()
    models: dict[str, ModelSection] = {}
    inference: InferenceSection = InferenceSection()
    delivery: DeliverySection = DeliverySection()
    retention: RetentionSection = RetentionSection()
    routes: tuple[RouteSection, ...] = ()
    web: WebSection = WebSection()
    log: LogSection = LogSection()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return env_settings, init_settings  # the environment wins over the file

    @model_validator(mode="after")
    def _names_exist(self) -> "Config":
        seen: set[str] = set()
        for route in self.routes:
            where = f'route "{route.name}"'
            if route.name in seen:
                raise ValueError(f"{where} stands twice; give each route a name of its own")
            seen.add(route.name)
            _require_known(f"{where}: model", route.model, self.models)
            if not route.send_to:
                raise ValueError(f"{where}: send_to is empty; name a peer")
            for peer in route.send_to:
                _require_known(f"{where}: send_to", peer, self.peers)
        for peer in self.dicom.accept_from or ():
            if peer != "*":
                _require_known("dicom.accept_from", peer, self.peers)
                if self.peers[peer].ae_title is None:
                    raise ValueError(f'dicom.accept_from: "{peer}" has no ae_title to know it by')
        return self


def load(path: Path) -> Config:
    """Reads and checks a configuration file; relative paths become relative to the file.

    Raises ConfigError naming the file and the key.
    """
    tree = read_toml(path)
    _refuse_unknown_environment(path)
    try:
        config = Config(**tree)
    except ValidationError as error:
        raise refusal(path, error, Config) from error
    return _with_absolute_paths(config, path.resolve().parent)


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as it stands. Raises ConfigError naming the file."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from error


def refusal(path: Path, error: ValidationError, tree: type[BaseModel]) -> ConfigError:
    """What pydantic found in a file that should have been a `tree`: one line per fault."""
    return ConfigError("\n".join(f"{path}: {_sentence(e, tree)}" for e in error.errors()))


def _with_absolute_paths(config: Config, folder: Path) -> Config:
    node = config.node.model_copy(update={"data_dir": folder / config.node.data_dir})
    models = {
        name: model.model_copy(update={"path": folder / model.path})
        for name, model in config.models.items()
    }
    tls = _absolute(config.dicom.tls, folder, ("certificate", "key", "ca"))
    return config.model_copy(
        update={
            "node": node,
            "models": models,
            "dicom": config.dicom.model_copy(update={"tls": tls}),
            "peers": {
                name: _absolute(peer, folder, ("tls_ca", "tls_certificate", "tls_key"))
                for name, peer in config.peers.items()
            },
        }
    )


def _absolute(section: SectionT, folder: Path, keys: Sequence[str]) -> SectionT:
    paths = {key: getattr(section, key) for key in keys}
    return section.model_copy(
        update={key: folder / path for key, path in paths.items() if path is not None}
    )


def _require_known(where: str, name: str, known: dict[str, Any]) -> None:
    if name not in known:
        raise ValueError(f'{where}: there is no "{name}"{did_you_mean(name, list(known))}')


def _refuse_unknown_environment(path: Path) -> None:
    for variable in sorted(os.environ):
        head, delimiter, _ = variable.removeprefix(ENV_PREFIX).partition(ENV_DELIMITER)
        ours = variable.startswith(ENV_PREFIX) and delimiter
        if ours and head.lower() not in Config.model_fields:
            hint = did_you_mean(head.lower(), list(Config.model_fields))
            raise ConfigError(
                f"{path}: environment variable {variable}: there is no section "
                f'"{head.lower()}"{hint}'
            )


def _sentence(error: Any, tree: type[BaseModel]) -> str:
    """One pydantic error as a sentence with the key and, where it is misspelt, the nearest one."""
    location = [part for part in error["loc"] if not _is_union_tag(part)]
    key = ".".join(str(part) for part in location)
    if error["type"] == "extra_forbidden":
        name = str(location[-1])
        return f'"{key}" is not a setting{did_you_mean(name, _siblings(location, tree))}'
    if error["type"] == "missing":
        return f'"{key}" is missing'
    message = _PLAIN.get(error["type"]) or error["msg"].removeprefix("Value error, ")
    if not key:
        return str(message)
    found = error["input"]
    hidden = error["type"] == "value_error" or location[-1] in _HIDDEN  # the former says it itself
    shown = f", not {found!r}" if isinstance(found, str | int | float) and not hidden else ""
    return f'"{key}": {_within_a_sentence(message)}{shown}'


def _within_a_sentence(message: str) -> str:
    """RLE Lossless stays as it is."""
    return message if message[1:2].isupper() else f"{message[0].lower()}{message[1:]}"


def _is_union_tag(part: int | str) -> bool:
    return isinstance(part, str) and ("[" in part or part in ("str", "int", "float"))


def _siblings(location: list[int | str], tree: type[BaseModel]) -> list[str]:
    """The settings that are known where `location` points."""
    fields: Any = tree.model_fields
    for part in location[:-1]:
        if not isinstance(fields, dict) or part not in fields:
            continue  # a peer's, a model's or a route's own name or number
        section = _section_of(fields[part].annotation)
        fields = section.model_fields if section else fields
    return list(fields)


def _section_of(annotation: Any) -> type[Section] | None:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    inner = [_section_of(argument) for argument in getattr(annotation, "__args__", ())]
    return next((section for section in inner if section), None)
