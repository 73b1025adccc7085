"""Which Associations brought an Instance: the first stands in its row, those after it here.

All are kept until one is released, since nobody knows how the open ones will end; so it does not
matter in which order they come and end. One that was released is as good as it gets.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, select
from sqlalchemy.dialects.sqlite import insert as insert_or

from node.core.names import SeriesInstanceUID
from node.store.tables import association, bringer, instance

RELEASED = "released"
_AT_ONCE = 500  # values in one IN; SQLite takes 32,766


def vouch(connection: Connection, uid: SeriesInstanceUID, again: Sequence[tuple[str, str]]) -> None:
    """Instances (by SOP Instance UID) came once more over these Associations."""
    well = _released(connection, uid, [sop for sop, _ in again])
    rows = [
        {"series_instance_uid": uid, "sop_instance_uid": sop, "association": name}
        for sop, name in again
        if sop not in well
    ]
    if rows:
        connection.execute(insert_or(bringer).on_conflict_do_nothing(), rows)


def forget(connection: Connection, uid: SeriesInstanceUID, sop: str) -> None:
    """The file that they brought was deleted; another came in its place."""
    mine = (bringer.c.series_instance_uid == uid) & (bringer.c.sop_instance_uid == sop)
    connection.execute(bringer.delete().where(mine))


def of_series(
    connection: Connection, uid: SeriesInstanceUID
) -> Mapping[str, Sequence[tuple[str, str | None]]]:
    """Association and how it ended, by SOP Instance UID; of what came more than once."""
    found: dict[str, list[tuple[str, str | None]]] = defaultdict(list)
    rows = connection.execute(
        select(bringer.c.sop_instance_uid, bringer.c.association, association.c.ending)
        .outerjoin(association, association.c.id == bringer.c.association)
        .where(bringer.c.series_instance_uid == uid)
        .order_by(bringer.c.association)
    )
    for sop, name, ending in rows:
        found[sop].append((name, ending))
    return found


def _released(connection: Connection, uid: SeriesInstanceUID, sops: Sequence[str]) -> set[str]:
    """Those that an Association brought which was released."""
    found: set[str] = set()
    for first in range(0, len(sops), _AT_ONCE):
        chunk = sops[first : first + _AT_ONCE]
        for table in (instance, bringer):
            found |= set(
                connection.scalars(
                    select(table.c.sop_instance_uid)
                    .join(association, association.c.id == table.c.association)
                    .where(
                        table.c.series_instance_uid == uid,
                        table.c.sop_instance_uid.in_(chunk),
                        association.c.ending == RELEASED,
                    )
                )
            )
    return found
