"""Opening the SQLite database: WAL, durable commits, foreign keys, migrations at start."""

import sqlite3
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config as AlembicConfig
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event

from node.core.errors import ConfigError

FILE_NAME = "segnode.sqlite"
BUSY_TIMEOUT_MS = 30_000


def connect(data_dir: Path) -> Engine:
    """An engine on the data folder's database. Transactions that write begin with `writing`."""
    engine = create_engine(f"sqlite:///{data_dir / FILE_NAME}")
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return engine


def writing(engine: Engine) -> Engine:
    """The same engine, whose transactions take the write lock at once.

    A transaction that reads first and writes later could not wait for another writer
    (SQLITE_BUSY at the upgrade, whatever the timeout).
    """
    return engine.execution_options(segnode_begin="BEGIN IMMEDIATE")


def _prepare(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None  # we begin transactions ourselves, see _begin
    for pragma in (
        "journal_mode = WAL",
        "synchronous = FULL",  # a committed state is a fact after a power cut, too
        "foreign_keys = ON",
        f"busy_timeout = {BUSY_TIMEOUT_MS}",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("segnode_begin", "BEGIN"))


def migrate(engine: Engine) -> None:
    """Brings the schema to this version. Raises ConfigError where a newer node wrote it."""
    config = _alembic()
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    with writing(engine).begin() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
        if current is not None and current not in known:
            raise ConfigError(
                f"{engine.url.database}: was written by a newer version of segnode "
                f"(schema {current}); install that version again"
            )
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def require_current(engine: Engine) -> None:
    """For commands beside the node: raises ConfigError unless the schema is this version's."""
    path = Path(str(engine.url.database))
    if not path.exists():
        raise ConfigError(f"{path}: there is no database yet; start the node once (segnode serve)")
    head = ScriptDirectory.from_config(_alembic()).get_current_head()
    with engine.connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    if current != head:
        raise ConfigError(
            f"{path}: schema is {current}, this segnode speaks {head}; restart the node"
        )


def _alembic() -> AlembicConfig:
    config = AlembicConfig()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config
