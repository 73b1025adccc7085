"""What an open Series waits for: the judgement that the node makes of it, made beside the node."""

from collections.abc import Sequence

from node.configured.routes import route_of, times_of
from node.core.config import Config
from node.core.text import counted
from node.dicom.closing.judgement import Judgement, judge
from node.dicom.closing.times import Times
from node.dicom.inbox import Inbox
from node.dicom.routing import Route, fit
from node.judging import facts_of, longest
from node.store.series import SeriesStore, StoredSeries


def waits_for(seen: StoredSeries, series: SeriesStore, config: Config, now: float) -> str:
    """In words. now: since the epoch; after a start of the node a Series waits anew."""
    uid = seen.series_instance_uid
    opened = [one for one in series.associations(uid) if one.ended_at is None]
    silent = max(0.0, now - seen.last_received_at)
    times = _times(seen, config)
    if opened and silent < times.quiet_seconds:
        return f"{counted(len(opened), 'association')} open: more may come"
    asks = [name for name, peer in config.peers.items() if peer.query]
    header_counts = config.closing.images_in_acquisition
    facts = facts_of(series.brought(uid), seen.counts, silent, asks, (), header_counts)
    return _in_words(judge(facts, times))


def _in_words(judgement: Judgement) -> str:
    lacks = f"; {judgement.lacks}" if any(f.holds is False for f in judgement.findings) else ""
    if judgement.wait_seconds <= 0:
        return f"{judgement.verdict} so far, about to close{lacks}"
    wait = f"closes in {judgement.wait_seconds:.0f} s if nothing more comes"
    return f"{judgement.verdict} so far, {wait}{lacks}"


def _times(seen: StoredSeries, config: Config) -> Times:
    usual = times_of(config)
    routes: Sequence[Route] = [route_of(section) for section in config.routes]
    try:
        header = Inbox(config.node.data_dir).header(seen.series_instance_uid)
    except (OSError, IndexError):  # it is on its way from incoming/
        return usual
    return longest([route for route in routes if fit(route, header).matches], usual)
