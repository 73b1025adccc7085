"""The Job that fills the channels of a Model, or the refused one that says why none does."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection, select

from node.core.channels import Candidate
from node.core.job import Job
from node.core.names import SeriesInstanceUID
from node.core.uids import input_fingerprint, result_uids
from node.core.verdict import Verdict
from node.store.orders import JobOrder, insert_job
from node.store.tables import instance, series

UIDS_SHOWN = 6


@dataclass(frozen=True)
class ChannelRoute:
    """A Route whose Model reads several Series. channels: their names in the Model's order.

    conditions: a fingerprint of what each channel wants. What a Series fitted under others says
    nothing of these.
    """

    name: str
    model: str
    model_fingerprint: str
    channels: tuple[str, ...]
    peers: tuple[str, ...]
    priority: int
    wait_seconds: float
    conditions: str


def order_of(
    connection: Connection, route: ChannelRoute, uids: tuple[SeriesInstanceUID, ...]
) -> JobOrder:
    """The Job of one Series for each channel."""
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


def merged(orders: Sequence[JobOrder]) -> list[JobOrder]:
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


def refuse(
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


def missing(
    route: ChannelRoute,
    study: str,
    channels: Sequence[int],
    candidates: Sequence[Sequence[Candidate]],
) -> str:
    """The reason where the wait is over. channels: none where each has one, but two the same."""
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


def ambiguous(
    route: ChannelRoute,
    study: str,
    channels: Sequence[int],
    candidates: Sequence[Sequence[Candidate]],
) -> str:
    """The reason where nobody can say which Series is meant."""
    return (
        f"several Series of study {study} fit {_listed(route, channels, candidates)}; make the "
        f'channels of route "{route.name}" narrower, restart, then segnode jobs rerun '
        "SERIES_UID for each that should be taken"
    )


def _listed(
    route: ChannelRoute, channels: Iterable[int], candidates: Sequence[Sequence[Candidate]]
) -> str:
    return "; ".join(f"{route.channels[n]}: {_uids_in_words(candidates[n])}" for n in channels)


def _uids_in_words(found: Sequence[Candidate]) -> str:
    shown = ", ".join(one.series_instance_uid for one in found[:UIDS_SHOWN])
    left = len(found) - UIDS_SHOWN
    return f"{shown} and {left} more" if left > 0 else shown


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
