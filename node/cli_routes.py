"""`segnode routes`: which Series would go where, before any is sent."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from node.terminal import (
    DEFAULT_CONFIG,
    AsJson,
    ConfigPath,
    fail,
    load,
    out,
    print_json,
    require_folder,
)

routes_app = typer.Typer(help="Which series go where, and why the others do not.")


@routes_app.callback()
def _root() -> None:
    """Which series go where, and why the others do not."""


@routes_app.command("test")
def routes_test(
    folder: Annotated[Path, typer.Argument(help="DICOM files, and folders below.")],
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """For each Series of a folder: the routes that match, and every condition that failed."""
    from node.configured.models import models_of
    from node.configured.receiving import negotiation_of
    from node.configured.routes import routes_of
    from node.dicom.receiver.rehearsal import rehearsal
    from node.routed import routed, routed_lines, routed_values

    settings = load(config)
    require_folder(folder)
    models = models_of(settings)
    rehearse = rehearsal(negotiation_of(settings), settings.dicom.max_instance_mb * 1_000_000)
    found = list(routed(folder, routes_of(settings, models), models, rehearse))
    if not found:
        fail(f"{folder}: there are no DICOM files of a Series in it")
    if as_json:
        print_json([routed_values(one) for one in found])
        return
    for one in found:
        out.print("\n".join(escape(line) for line in routed_lines(one)))
