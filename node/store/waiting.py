"""Closed Series that wait for the other channels of a Model, until they are a Job or are refused.

A row says: this Series fits that channel of that Route. It stands from the moment when the Series
closes until it opens again, and is done once it led to a Job or to a refusal; done ones still
fill their channel when a later Series comes. Everything is decided in the transaction that closes
a Series, so it does not matter which of them closes last, and a crash leaves all of it or nothing.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection, Engine, delete, func, insert, select, update

from node.core.channels import Ambiguous, Candidate, Chosen, Missing, choose
from node.core.job import Job
from node.core.names import SeriesInstanceUID
from node.core.uids import input_fingerprint, result_uids
from node.core.verdict import Verdict
from node.store.database import writing
from node.store.orders import JobOrder, insert_job
from node.store.tables import instance, series, waiting


@dataclass(frozen=True)
class ChannelRoute:
    """A Route whose Model reads several Series. channels: their names in the Model's order."""

    name: str
    model: str
    model_fingerprint: str
    channels: tuple[str, ...]
    peers: tuple[str, ...]
    priority: int
    wait_seconds: float


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
        refused = []
        with self._writing.begin() as connection:
            for study, name in _over(connection, now):
                if (route := by_name.get(name)) is not None:
                    refused += _decide(connection, study, [route], now, wait_is_over=True)
                _done(connection, study, name, now)
        return refused

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
                orders.append(_order(connection, route, uids))
            case Missing(channels) if wait_is_over:
                reason = _missing(route, study, channels, candidates)
                jobs.append(_refuse(connection, route, candidates, reason, now))
            case Ambiguous(channels):
                reason = _ambiguous(route, study, channels, candidates)
                jobs.append(_refuse(connection, route, candidates, reason, now))
            case _:
                continue
        _done(connection, study, route.name, now)
    jobs += [insert_job(connection, order, now) for order in _merged(orders)]
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
            waiting.c.channel < len(route.channels),
            series.c.closed_at.is_not(None),
            series.c.purged_at.is_(None),
        )
        .order_by(waiting.c.series_instance_uid)
    )
    for row in rows:
        found[row.channel].append(Candidate(row.series_instance_uid, row.frame_of_reference_uid))
    return list(found)


def _order(
    connection: Connection, route: ChannelRoute, uids: tuple[SeriesInstanceUID, ...]
) -> JobOrder:
    fingerprint = input_fingerprint(_sha256_by_sop(connection, uid) for uid in uids)
    return JobOrder(
        series_instance_uids=uids,
        route=route.name,
        model=route.model,
        model_fingerprint=route.model_fingerprint,
        input_fingerprint=fingerprint,
        result_uids=result_uids(fingerprint, route.model_fingerprint),
        peers=route.peers,
        priority=route.priority,
        verdict=_least_verdict(connection, uids),
    )


def _merged(orders: Sequence[JobOrder]) -> list[JobOrder]:
    """One Job where several Routes lead the same Series to the same Model."""
    merged: dict[tuple[str, str], JobOrder] = {}
    for order in orders:
        key = order.model, order.input_fingerprint
        one = merged.get(key)
        if one is not None:
            order = replace(
                one,
                route=f"{one.route}, {order.route}",
                peers=tuple(dict.fromkeys(one.peers + order.peers)),
                priority=max(one.priority, order.priority),
            )
        merged[key] = order
    return list(merged.values())


def _refuse(
    connection: Connection,
    route: ChannelRoute,
    candidates: Sequence[Sequence[Candidate]],
    reason: str,
    now: float,
) -> Job | None:
    """A Job that never had its Series, for people to see; None where it stands already."""
    uids = tuple(dict.fromkeys(c.series_instance_uid for found in candidates for c in found))
    # Not the fingerprint of an input: no Job that can run ever has the same.
    digest = hashlib.sha256(f"refused {route.name}".encode())
    for uid in uids:
        digest.update(f"\n{input_fingerprint([_sha256_by_sop(connection, uid)])}".encode())
    order = JobOrder(
        series_instance_uids=uids,
        route=route.name,
        model=route.model,
        model_fingerprint=route.model_fingerprint,
        input_fingerprint=digest.hexdigest(),
        result_uids=result_uids(digest.hexdigest(), route.model_fingerprint),
        peers=(),
        priority=route.priority,
        verdict=_least_verdict(connection, uids),
    )
    return insert_job(connection, order, now, refusal=reason)


def _missing(
    route: ChannelRoute,
    study: str,
    channels: Sequence[int],
    candidates: Sequence[Sequence[Candidate]],
) -> str:
    there = _listed(route, [n for n, found in enumerate(candidates) if found], candidates)
    if not channels:
        return (
            f"of study {study} no {len(route.channels)} Series came within "
            f"{route.wait_seconds:g} s, one for each channel; it has {there}"
        )
    names = " and ".join(route.channels[n] for n in channels)
    many = "s" * (len(channels) > 1)
    return (
        f"no Series for channel{many} {names} of study {study} came within "
        f"{route.wait_seconds:g} s; it has {there}"
    )


def _ambiguous(
    route: ChannelRoute,
    study: str,
    channels: Sequence[int],
    candidates: Sequence[Sequence[Candidate]],
) -> str:
    return (
        f"several Series of study {study} fit {_listed(route, channels, candidates)}; make the "
        f'channels of route "{route.name}" narrower, restart, then segnode jobs rerun '
        "SERIES_UID for each that should be taken"
    )


def _listed(
    route: ChannelRoute, channels: Iterable[int], candidates: Sequence[Sequence[Candidate]]
) -> str:
    return "; ".join(
        f"{route.channels[n]}: {', '.join(one.series_instance_uid for one in candidates[n])}"
        for n in channels
    )


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


def _sha256_by_sop(connection: Connection, uid: SeriesInstanceUID) -> Mapping[str, str]:
    rows = connection.execute(
        select(instance.c.sop_instance_uid, instance.c.sha256).where(
            instance.c.series_instance_uid == uid
        )
    )
    return {row.sop_instance_uid: row.sha256 for row in rows}


def _least_verdict(connection: Connection, uids: Sequence[SeriesInstanceUID]) -> Verdict | None:
    found = connection.scalars(
        select(series.c.verdict).where(
            series.c.series_instance_uid.in_(uids), series.c.verdict.is_not(None)
        )
    )
    order = list(Verdict)
    return min((Verdict(one) for one in found), key=order.index, default=None)
