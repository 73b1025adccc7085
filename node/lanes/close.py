"""The lane that closes Series on evidence."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog

from node import pipeline
from node.core.model import Model
from node.core.names import SeriesInstanceUID
from node.core.verdict import Verdict
from node.dicom.closing.judgement import Judgement, judge
from node.dicom.closing.times import Times
from node.dicom.inbox import Inbox
from node.dicom.routing import Route, fit
from node.judging import facts_of, longest
from node.lanes.lane import IDLE_SECONDS, Lane, Wake
from node.lanes.record import RecordLane
from node.recording import described_again
from node.store.series import Brought, OpenSeries, SeriesStore, StoredSeries

log = structlog.get_logger()

_PAUSE = 5.0  # times what the last judgement took: so much of a core it may cost at most
_LONGEST_PAUSE_SECONDS = 1.0


@dataclass
class Watched:
    """What the lane remembers of an open Series; all moments are monotonic.

    silent_since: of its last Instance, as this process saw it. look_at: when it is judged next.
    """

    seen: OpenSeries
    silent_since: float
    look_at: float
    pause: float = 0.0
    judged_at: float = float("-inf")
    times: Times | None = None
    told: str = ""


class CloseLane(Lane):
    """Open Series → judged; closed with their Jobs once the evidence or the waiting suffices.

    Waiting is measured by the monotonic clock: a clock that is set closes nothing early. After a
    start every Series that is open waits anew.
    """

    def __init__(
        self,
        inbox: Inbox,
        series: SeriesStore,
        routes: Sequence[Route],
        models: Mapping[str, Model],
        times: Times,
        on_queued: Wake,
        recording: RecordLane,
        asks: Sequence[str] = (),
        header_counts: bool = True,
    ) -> None:
        super().__init__("close")
        self._inbox, self._series = inbox, series
        self._routes, self._models = routes, models
        self._times, self._on_queued, self._recording = times, on_queued, recording
        self._asks, self._header_counts = asks, header_counts
        self._watched: dict[SeriesInstanceUID, Watched] = {}

    def step(self) -> float:
        self._notice(self._series.open_series(), time.monotonic())
        now = time.monotonic()
        due = [one for one in self._watched.values() if one.look_at <= now]
        ready = [one for one in due if self._recording.has_recorded_as_of(one.look_at)]
        for one in ready:
            self._look(one)
        if len(ready) < len(due):
            self._recording.wake()  # it wakes this lane when it has been through incoming/
        later = (one.look_at for one in self._watched.values() if one.look_at > now)
        return min(max(min(later, default=float("inf")) - time.monotonic(), 0.001), IDLE_SECONDS)

    def _notice(self, opened: Sequence[OpenSeries], now: float) -> None:
        before = self._watched
        self._watched = {}
        for one in opened:
            watched = before.get(one.series_instance_uid)
            if watched is None:
                watched = Watched(one, now, now)
            elif watched.seen.revision != one.revision:
                self._notice_change(watched, one, now)
            self._watched[one.series_instance_uid] = watched

    def _notice_change(self, watched: Watched, now_open: OpenSeries, now: float) -> None:
        earlier = watched.seen
        if (earlier.instances, earlier.last_received_at) != (
            now_open.instances,
            now_open.last_received_at,
        ):
            watched.silent_since = now
        watched.seen = now_open
        watched.look_at = max(now, watched.judged_at + watched.pause)

    def _look(self, watched: Watched) -> None:
        uid = watched.seen.series_instance_uid
        seen = self._series.get(uid)
        if seen is None or seen.closed_at is not None:
            del self._watched[uid]
            return
        if seen.revision != watched.seen.revision:  # more came: it is not as silent as it was
            self._notice(self._series.open_series(), time.monotonic())
            return
        began = time.monotonic()
        try:
            judgement = self._judge(seen, watched)
            if judgement.wait_seconds <= 0 and self._close(seen, judgement):
                del self._watched[uid]
                return
            self._tell(seen, judgement, watched)
            wait = max(judgement.wait_seconds, 0.01)
        except Exception:  # of this Series; the others are closed all the same
            log.exception("a series cannot be judged", series_instance_uid=uid)
            wait = _LONGEST_PAUSE_SECONDS * 10
        watched.judged_at = time.monotonic()
        watched.pause = min((watched.judged_at - began) * _PAUSE, _LONGEST_PAUSE_SECONDS)
        watched.look_at = watched.judged_at + wait

    def _tell(self, seen: StoredSeries, judgement: Judgement, watched: Watched) -> None:
        """A Series that waits for long says why."""
        if judgement.refused is not None and judgement.words != watched.told:
            watched.told = judgement.words
            self._series.tell(seen, judgement.words, judgement.values())
            log.warning(
                "a series waits for what is missing",
                series_instance_uid=seen.series_instance_uid,
                why=judgement.refused,
            )

    def _judge(self, seen: StoredSeries, watched: Watched) -> Judgement:
        if watched.times is None:
            watched.times = self._times_of(seen.series_instance_uid)
        if watched.seen.is_arriving and self._cannot_close_yet(watched):
            wait = watched.times.quiet_seconds - (time.monotonic() - watched.silent_since)
            return Judgement(Verdict.UNPROVEN, (), max(wait, 0.01))
        facts = facts_of(
            self._brought(seen.series_instance_uid),
            seen.counts,
            time.monotonic() - watched.silent_since,
            self._asks,
            self._recording.unread(),
            self._header_counts,
        )
        return judge(facts, watched.times)

    def _brought(self, uid: SeriesInstanceUID) -> Sequence[Brought]:
        brought = self._series.brought(uid)
        if again := described_again(brought, self._inbox):
            self._series.describe(uid, again)
            log.info("headers read again", series_instance_uid=uid, instances=len(again))
            return self._series.brought(uid)
        return brought

    def _cannot_close_yet(self, watched: Watched) -> bool:
        """While an Association is open nothing is proven: no need to look at every slice."""
        assert watched.times is not None
        return time.monotonic() - watched.silent_since < watched.times.quiet_seconds

    def _times_of(self, uid: SeriesInstanceUID) -> Times:
        try:
            header = self._inbox.header(uid)
        except (OSError, IndexError):  # deleted meanwhile, see retention
            return self._times
        return longest([route for route in self._routes if fit(route, header).matches], self._times)

    def _close(self, seen: StoredSeries, judgement: Judgement) -> bool:
        jobs = pipeline.close(
            seen,
            judgement,
            self._inbox,
            self._series,
            self._routes,
            self._models,
            time.time(),
        )
        if jobs is None:
            return False
        log.info(
            "series closed",
            series_instance_uid=seen.series_instance_uid,
            evidence=judgement.words,
            jobs=[job.id for job in jobs],
        )
        self._on_queued()
        return True
