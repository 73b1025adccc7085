"""Closed Series that wait for the other channels of a Model, until they are a Job or are refused.

A row says: this Series fits that channel of that Route. It stands from the moment when the Series
closes until it opens again, and is done once it led to a Job or to a refusal; done ones still
fill their channel when a later Series comes. Everything is decided in the transaction that closes
a Series, so it does not matter which of them closes last, and a crash leaves all of it or nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, delete, func, insert, select, update

from node.core.channels import Ambiguous, Candidate, Chosen, Missing, choose
from node.core.job import Job
from node.core.names import SeriesInstanceUID
from node.store.channel_orders import (
    ChannelRoute,
    ambiguous,
    merged,
    missing,
    order_of,
    refuse,
)
from node.store.database import writing
from node.store.orders import JobOrder, insert_job
from node.store.tables import series, waiting


@dataclass(frozen=True)
class ChannelFit:
    """A closed Series fits some channels of a Route. frame_of_reference_uid: "" for none."""

    route: ChannelRoute
    channels: tuple[int, ...]
    frame_of_reference_uid: str


@dataclass(frozen=True)
class Waiting:
    """A row, for the eye; times are seconds since the epoch, UTC."""

    series_instance_uid: SeriesInstanceUID
    study_instance_uid: str
    route: str
    channel: int
    since: float
    until: float
    done_at: float | None
    frame_of_reference_uid: str
    conditions: str


class WaitingStore:
    """The waiting Series of one data folder."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writing = writing(engine)

    def refuse_due(self, routes: Iterable[ChannelRoute], now: float) -> list[Job]:
        """Refuses those whose wait is over; returns the Jobs, REJECTED with the reason.

        Each Series that comes for a channel begins the wait of its study anew.
        """
        by_name = {route.name: route for route in routes}
        refused: list[Job] = []
        with self._engine.connect() as connection:
            if not _over(connection, now):  # asked each second: nobody else is kept from writing
                return refused
        with self._writing.begin() as connection:
            for study, name in _over(connection, now):
                if (route := by_name.get(name)) is not None:
                    refused += _decide(connection, study, [route], now, wait_is_over=True)
                _done(connection, study, name, now)
        return refused

    def outdated(self, routes: Iterable[ChannelRoute]) -> list[SeriesInstanceUID]:
        """The Series that wait for a Route which is no more, or has other channels or conditions.

        They are to be routed anew: what they fitted may be another channel now.
        """
        known = {(route.name, route.conditions) for route in routes}
        rows = select(waiting.c.series_instance_uid, waiting.c.route, waiting.c.conditions).where(
            waiting.c.done_at.is_(None)
        )
        with self._engine.connect() as connection:
            found = connection.execute(rows.order_by(waiting.c.series_instance_uid)).all()
        uids = [row.series_instance_uid for row in found if row[1:] not in known]
        return list(dict.fromkeys(uids))

    def restart(self, now: float) -> int:
        """After a start the whole wait begins anew: what was missing may have come meanwhile.

        Returns how many wait.
        """
        with self._writing.begin() as connection:
            again = now + waiting.c.until - waiting.c.since
            return connection.execute(
                update(waiting).where(waiting.c.done_at.is_(None)).values(since=now, until=again)
            ).rowcount


def enter(
    connection: Connection,
    uid: SeriesInstanceUID,
    study_instance_uid: str,
    fits: Sequence[ChannelFit],
    now: float,
) -> list[Job]:
    """A Series has closed that fits channels of some Routes; returns the Jobs that this starts."""
    leave(connection, uid)
    for fit in fits:
        _wait(connection, uid, study_instance_uid, fit, now)
    return _decide(connection, study_instance_uid, [fit.route for fit in fits], now)


def leave(connection: Connection, uid: SeriesInstanceUID) -> None:
    """The Series is open again, or gone: it fills no channel."""
    connection.execute(delete(waiting).where(waiting.c.series_instance_uid == uid))


def of_series(connection: Connection, uid: SeriesInstanceUID) -> list[Waiting]:
    """What this Series fits, by Route and channel."""
    rows = connection.execute(
        select(waiting)
        .where(waiting.c.series_instance_uid == uid)
        .order_by(waiting.c.route, waiting.c.channel)
    ).mappings()
    return [Waiting(**row) for row in rows]


def _wait(
    connection: Connection, uid: SeriesInstanceUID, study: str, fit: ChannelFit, now: float
) -> None:
    common = {
        "series_instance_uid": uid,
        "study_instance_uid": study,
        "route": fit.route.name,
        "since": now,
        "until": now + fit.route.wait_seconds,
        "frame_of_reference_uid": fit.frame_of_reference_uid,
        "conditions": fit.route.conditions,
    }
    connection.execute(insert(waiting), [common | {"channel": n} for n in fit.channels])


def _decide(
    connection: Connection,
    study: str,
    routes: Sequence[ChannelRoute],
    now: float,
    *,
    wait_is_over: bool = False,
) -> list[Job]:
    """Starts or refuses the Jobs of these Routes for a study, where that can be said."""
    orders: list[JobOrder] = []
    jobs = []
    for route in routes:
        candidates = _candidates(connection, study, route)
        match choose(candidates):
            case Chosen(uids):
                orders.append(order_of(connection, route, uids))
            case Missing(channels) if wait_is_over:
                reason = missing(route, study, channels, candidates)
                jobs.append(refuse(connection, route, candidates, reason, now))
            case Ambiguous(channels):
                reason = ambiguous(route, study, channels, candidates)
                jobs.append(refuse(connection, route, candidates, reason, now))
            case _:
                continue
        _done(connection, study, route.name, now)
    jobs += [insert_job(connection, order, now) for order in merged(orders)]
    return [job for job in jobs if job is not None]


def _candidates(
    connection: Connection, study: str, route: ChannelRoute
) -> list[Sequence[Candidate]]:
    """By channel, the closed Series of the study that fit it, in the order of their UIDs."""
    found: list[list[Candidate]] = [[] for _ in route.channels]
    rows = connection.execute(
        select(waiting)
        .join(series, series.c.series_instance_uid == waiting.c.series_instance_uid)
        .where(
            waiting.c.study_instance_uid == study,
            waiting.c.route == route.name,
            waiting.c.conditions == route.conditions,
            series.c.closed_at.is_not(None),
            series.c.purged_at.is_(None),
        )
        .order_by(waiting.c.series_instance_uid)
    )
    for row in rows:
        found[row.channel].append(Candidate(row.series_instance_uid, row.frame_of_reference_uid))
    return list(found)


def _done(connection: Connection, study: str, route: str, now: float) -> None:
    connection.execute(
        update(waiting)
        .where(
            waiting.c.study_instance_uid == study,
            waiting.c.route == route,
            waiting.c.done_at.is_(None),
        )
        .values(done_at=now)
    )


def _over(connection: Connection, now: float) -> list[tuple[str, str]]:
    """Study and Route of those whose last wait is over."""
    rows = connection.execute(
        select(waiting.c.study_instance_uid, waiting.c.route)
        .where(waiting.c.done_at.is_(None))
        .group_by(waiting.c.study_instance_uid, waiting.c.route)
        .having(func.max(waiting.c.until) <= now)
    )
    return [(row.study_instance_uid, row.route) for row in rows]
