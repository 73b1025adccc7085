"""Requests for Storage Commitment: which wait for our answer, and what is held of their items."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import ColumnElement, Engine, delete, or_, select, update
from sqlalchemy.dialects.sqlite import insert as insert_or

from node.core.commitment import Asked, Reference
from node.store.database import writing
from node.store.tables import commitment_asked, instance

LONGEST_PAUSE_SECONDS: Final = 2 * 3600.0  # no request waits longer, unless the clock was set back
KEPT_SECONDS: Final = 30 * 86400.0  # of a request after its answer
_AT_ONCE: Final = 500  # values in one IN; SQLite takes 32,766
_OPEN = commitment_asked.c.done_at.is_(None)


@dataclass(frozen=True)
class Waiting:
    """A request that is not answered yet. attempts: so far."""

    id: int
    asked: Asked
    attempts: int


@dataclass(frozen=True)
class HeldInstance:
    """What is recorded of an Instance. path: relative to the data folder, "" once it is deleted."""

    sop_class_uid: str
    path: str


class CommitmentStore:
    """The requests of one data folder."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writing = writing(engine)

    def add_all(self, requests: Sequence[Asked], now: float) -> None:
        """Notes requests, each once; forgets those that were answered long ago."""
        if not requests:
            return
        rows = [
            {
                "calling_ae_title": one.calling_ae_title,
                "transaction_uid": one.transaction_uid,
                "asked_at": one.asked_at,
                "items": [item.value() for item in one.items],
                "not_before": now,
            }
            for one in requests
        ]
        with self._writing.begin() as connection:
            connection.execute(insert_or(commitment_asked).on_conflict_do_nothing(), rows)
            old = commitment_asked.c.done_at < now - KEPT_SECONDS
            connection.execute(delete(commitment_asked).where(old))

    def due(self, calling_ae_title: str, now: float) -> Waiting | None:
        """The request of this peer that is due the longest."""
        table = commitment_asked
        clock_set_back = table.c.not_before > now + LONGEST_PAUSE_SECONDS
        is_due = or_(table.c.attempts == 0, table.c.not_before <= now, clock_set_back)
        with self._engine.connect() as connection:
            row = connection.execute(
                select(table)
                .where(table.c.calling_ae_title == calling_ae_title, _OPEN, is_due)
                .order_by(table.c.not_before, table.c.id)
                .limit(1)
            ).one_or_none()
        if row is None:
            return None
        items = tuple(map(Reference.from_value, row.items))
        asked = Asked(row.calling_ae_title, row.transaction_uid, row.asked_at, items)
        return Waiting(row.id, asked, row.attempts)

    def retry(self, waiting: Waiting, not_before: float, answer: str) -> None:
        """It could not be answered; it is due again later."""
        values = {"attempts": waiting.attempts + 1, "not_before": not_before, "answer": answer}
        self._change(values, commitment_asked.c.id == waiting.id)

    def settle(self, waiting: Waiting, answer: str, now: float) -> None:
        """It is answered, or given up."""
        values = {"attempts": waiting.attempts + 1, "done_at": now, "answer": answer}
        self._change(values, commitment_asked.c.id == waiting.id)

    def abandon(self, answerable: Iterable[str], now: float) -> Sequence[str]:
        """Gives up what nobody is configured to hear of. Returns those AE titles, sorted."""
        table = commitment_asked
        with self._writing.begin() as connection:
            nobody = table.c.calling_ae_title.not_in(list(answerable))
            titles = connection.scalars(
                update(table)
                .where(_OPEN, nobody)
                .values(done_at=now, answer="not answered: no peer has this AE title")
                .returning(table.c.calling_ae_title)
            )
            return sorted(set(titles))

    def held(self, sop_instance_uids: Sequence[str]) -> Mapping[str, Sequence[HeldInstance]]:
        """What is recorded of these Instances; one UID may stand in several Series."""
        found: dict[str, list[HeldInstance]] = defaultdict(list)
        columns = instance.c.sop_instance_uid, instance.c.sop_class_uid, instance.c.path
        with self._engine.connect() as connection:
            for first in range(0, len(sop_instance_uids), _AT_ONCE):
                some = sop_instance_uids[first : first + _AT_ONCE]
                query = select(*columns).where(instance.c.sop_instance_uid.in_(some))
                for uid, sop_class_uid, path in connection.execute(query):
                    found[uid].append(HeldInstance(sop_class_uid, path))
        return found

    def _change(self, values: Mapping[str, object], which: ColumnElement[bool]) -> None:
        with self._writing.begin() as connection:
            connection.execute(update(commitment_asked).where(which, _OPEN).values(values))
