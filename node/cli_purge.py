"""`segnode purge`: what the node deletes every hour, now."""

import time
from typing import Annotated

import typer
from rich.markup import escape

from node.terminal import DEFAULT_CONFIG, AsJson, ConfigPath, load, out, print_json


def purge(
    config: ConfigPath = DEFAULT_CONFIG,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be deleted.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Delete what the configured retention no longer keeps; safe beside the running node."""
    from node import retention
    from node.configured.routes import periods_of
    from node.dicom.trash import Trash
    from node.store import database
    from node.store.retention import RetentionStore

    settings = load(config)
    engine = database.connect(settings.node.data_dir)
    try:
        database.require_current(engine)
        run = retention.would_purge if dry_run else retention.purge
        trash, periods = Trash(settings.node.data_dir), periods_of(settings)
        purged = list(run(RetentionStore(engine), trash, periods, time.time()))
    finally:
        engine.dispose()
    if as_json:
        print_json([vars(one) for one in purged])
        return
    for one in purged:
        line = f"{one.what:<6}  {one.name}  {one.size_bytes / 1e6:.1f} MB  {one.why}"
        out.print(escape(line))
    total = sum(one.size_bytes for one in purged) / 1e6
    verb = "would be deleted" if dry_run else "deleted"
    out.print(f"{len(purged)} {verb}, {total:.1f} MB")
