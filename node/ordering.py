"""What a closed Series starts: Jobs of its own, and places in Jobs of several Series."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydicom import Dataset

from node.core.model import Model
from node.core.text import clean
from node.core.uids import input_fingerprint, result_uids
from node.core.verdict import Verdict
from node.dicom.closing.judgement import Judgement
from node.dicom.routing import Fit, Route
from node.store.channel_orders import ChannelRoute
from node.store.orders import JobOrder
from node.store.series import StoredInstance, StoredSeries
from node.store.waiting import ChannelFit


@dataclass(frozen=True)
class Starts:
    """orders: Jobs at once. channel_fits: for Jobs that may need other Series, too."""

    orders: Sequence[JobOrder] = ()
    channel_fits: Sequence[ChannelFit] = ()


def starts(
    seen: StoredSeries,
    instances: Sequence[StoredInstance],
    header: Dataset,
    matching: Sequence[Fit],
    models: Mapping[str, Model],
    verdict: Verdict | None = None,
) -> Starts:
    """One Job per Model that reads one Series; for the others, which channels the Series fits.

    Two Routes to one Model make one Job with both Routes' Peers and the higher priority.
    """
    single = [one.route for one in matching if not one.route.channels]
    fingerprint = input_fingerprint([{str(i.sop_instance_uid): i.sha256 for i in instances}])
    orders = [
        _order(seen, fingerprint, [r for r in single if r.model == name], models[name], verdict)
        for name in dict.fromkeys(route.model for route in single)
    ]
    frame = _frame_of_reference_uid(header)
    fits = [
        ChannelFit(channel_route(one.route, models), one.channels, frame)
        for one in matching
        if one.route.channels
    ]
    return Starts(orders, fits)


def accepted(matching: Sequence[Fit], judgement: Judgement) -> tuple[list[Fit], list[str]]:
    """The matching Routes that take a Series so judged, and in words why the others do not."""
    if judgement.refused is not None:
        return [], [f"not segmented: {judgement.refused}"] if matching else []
    taking = [one for one in matching if judgement.verdict.is_at_least(one.route.least_verdict)]
    wanting: dict[Verdict, list[str]] = {}
    for one in matching:
        if one not in taking:
            wanting.setdefault(one.route.least_verdict, []).append(f'"{one.route.name}"')
    return taking, _unsure(wanting, judgement)


def _unsure(wanting: Mapping[Verdict, Sequence[str]], judgement: Judgement) -> list[str]:
    """Which Routes want more than was shown; what lacks is said once."""
    told = [
        f"route{'s' * (len(names) > 1)} {' and '.join(names)} want{'s' * (len(names) == 1)} {least}"
        for least, names in wanting.items()
    ]
    if not told:
        return []
    return [f"{', '.join(told)}, the Series is {judgement.verdict}: {judgement.lacks}"]


def channel_route(route: Route, models: Mapping[str, Model]) -> ChannelRoute:
    """A Route whose Model reads several Series, as the store takes it."""
    return ChannelRoute(
        name=route.name,
        model=route.model,
        model_fingerprint=models[route.model].fingerprint,
        channels=tuple(route.channels),
        peers=tuple(dict.fromkeys(route.send_to)),
        priority=route.priority,
        wait_seconds=route.wait_seconds,
        conditions=hashlib.sha256(repr(list(route.channels.items())).encode()).hexdigest(),
    )


def _order(
    seen: StoredSeries,
    fingerprint: str,
    routes: Sequence[Route],
    model: Model,
    verdict: Verdict | None,
) -> JobOrder:
    return JobOrder(
        series_instance_uids=(seen.series_instance_uid,),
        route=", ".join(route.name for route in routes),
        model=model.name,
        model_fingerprint=model.fingerprint,
        input_fingerprint=fingerprint,
        result_uids=result_uids(fingerprint, model.fingerprint),
        peers=tuple(dict.fromkeys(peer for route in routes for peer in route.send_to)),
        priority=max(route.priority for route in routes),
        verdict=verdict,
    )


def _frame_of_reference_uid(header: Dataset) -> str:
    try:
        return clean(str(header.get("FrameOfReferenceUID") or "")[:64])
    except Exception:  # a sender's odd value; without one the Series is in no common frame
        return ""
