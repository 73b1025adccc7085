"""A real SQLite database in the test's folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy

from node.store import database
from tests.stored import Stores


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sqlalchemy.Engine]:
    opened = database.connect(tmp_path)
    database.migrate(opened)
    yield opened
    opened.dispose()


@pytest.fixture
def stores(engine: sqlalchemy.Engine) -> Stores:
    """One Job for the Peers a and b."""
    return Stores(engine)
