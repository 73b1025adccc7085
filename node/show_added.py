"""What `segnode models add` tells: what was added, what to check, what to write in node.toml."""

from pathlib import Path
from typing import TYPE_CHECKING

from node.core.anatomy import TISSUE
from node.core.model import Model
from node.inference.adding.drafting import toml_key, toml_text

if TYPE_CHECKING:
    from node.inference.adding.add import Added

_MOST_NAMED = 12  # labels in one line


def added_lines(added: "Added", config_folder: Path) -> list[str]:
    """A Model that was just added. config_folder: what paths in node.toml are relative to."""
    model = added.model
    return [
        f"added {model.name}: {model.title} {model.version}",
        f"  folder         {model.folder}",
        f"  configuration  {_stages(model)}",
        f"  network        {added.architecture}, {_folds(len(model.folds))}",
        f"  fingerprint    {model.fingerprint}",
        *_to_check(added),
        "",
        "For node.toml:",
        "",
        *_settings(model, config_folder),
        "",
        "Research use; not a medical device.",
    ]


def _stages(model: Model) -> str:
    first = model.previous_stage
    return f"{first.configuration}, then {model.configuration}" if first else model.configuration


def _folds(count: int) -> str:
    return "1 fold" if count == 1 else f"{count} folds, whose scores are averaged"


def _to_check(added: "Added") -> list[str]:
    """What only a person can say."""
    model = added.model
    kept = "" if added.drafted else " (it came with the model and is unchanged)"
    lines = ["", f"To check in {model.folder / 'model.toml'}{kept}:"]
    if model.orientation_assumed:
        lines.append(
            "  orientation: nobody says how the training arrays lay; RAS is assumed, and a wrong "
            "guess exchanges left and right"
        )
    guessed = [segment.label for segment in model.segments if segment.guessed]
    unknown = [s.label for s in model.segments if s.type == TISSUE and not s.guessed]
    if guessed:
        lines.append(f"  codes guessed from names ({len(guessed)}): {_listed(guessed)}")
    if unknown:
        lines.append(f"  without a code, written as Tissue ({len(unknown)}): {_listed(unknown)}")
    return lines if len(lines) > 2 else []


def _listed(labels: list[str]) -> str:
    more = f" and {len(labels) - _MOST_NAMED} more" if len(labels) > _MOST_NAMED else ""
    return ", ".join(labels[:_MOST_NAMED]) + more


def _settings(model: Model, config_folder: Path) -> list[str]:
    """The lines to copy; conditions and peers are the administrator's to name."""
    folder = model.folder
    path = folder.relative_to(config_folder) if folder.is_relative_to(config_folder) else folder
    modalities = model.accepts.modalities
    modality = toml_text(modalities[0] if modalities else "…")
    when = f'{{ Modality = {modality}, SeriesDescription = "~(?i)…" }}'
    single = len(model.channels) == 1
    return [
        f"[models.{model.name}]",
        f"path = {toml_text(str(path))}",
        "",
        "[[routes]]",
        f'name = "{model.name}"',
        f'model = "{model.name}"',
        'send_to = ["pacs"]   # peers by name',
        *([f"when = {when}"] if single else []),
        *([] if single else [f"channels.{toml_key(name)} = {when}" for name in model.channels]),
    ]
