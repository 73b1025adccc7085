"""Counting: how many Instances of an open Series a Peer holds, asked beside everything else."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import structlog

from node.core.errors import SegnodeError
from node.core.names import AETitle, SeriesInstanceUID
from node.dicom.closing.evidence import Count, count_values
from node.dicom.closing.times import Times
from node.dicom.planes import VOLUME_SOP_CLASSES
from node.dicom.scu.peer import Peer
from node.dicom.scu.query import Query, querying
from node.lanes.lane import AT_ONCE, IDLE_SECONDS, Lane, Wake
from node.lanes.pace import Pace
from node.store.series import OpenSeries, SeriesStore

log = structlog.get_logger()

AT_MOST: Final = 20  # Series over one Association, so that new Series soon have their turn
BETWEEN_SECONDS: Final = 1.0  # questions about a Series that is arriving
FIRST_PAUSE_SECONDS: Final = 1.0  # after an answer that lets us wait, or none; doubles …
LONGEST_PAUSE_SECONDS: Final = 60.0  # … up to this
_NAMED: Final = 20


@dataclass
class Asked:
    """What this process knows of a Peer and one Series; moments are monotonic.

    since: of the first answer with the present number; resting_since: with as many here as now.
    """

    count: Count
    held: int = -1
    at: float = float("-inf")
    since: float = 0.0
    resting_since: float = 0.0
    next_at: float = float("-inf")
    pause: float = FIRST_PAUSE_SECONDS
    was_arriving: bool = True


class CountLane(Lane):
    """Asks one Peer for NumberOfSeriesRelatedInstances of every Series that is open.

    First as soon as the Series is seen: a number said before the Instances came is worth more.
    """

    def __init__(
        self,
        series: SeriesStore,
        peer: Peer,
        calling_ae_title: AETitle,
        times: Times,
        on_counted: Wake,
        pace: Pace,
    ) -> None:
        super().__init__(f"count {peer.name}")
        self._series, self._peer, self._calling_ae_title = series, peer, calling_ae_title
        self._times, self._on_counted, self._pace = times, on_counted, pace
        self._asked: dict[SeriesInstanceUID, Asked] = {}

    def step(self) -> float:
        opened = self._series.open_series()
        self._forget_all_but(opened)
        due = sorted(
            (one for one in opened if self._due_at(one) <= time.monotonic()), key=self._order
        )
        if due:
            self._ask(due[:AT_MOST])
            return AT_ONCE
        soonest = min((self._due_at(one) for one in opened), default=float("inf"))
        return min(max(soonest - time.monotonic(), 0.0), IDLE_SECONDS)

    def _order(self, one: OpenSeries) -> tuple[bool, float]:
        """What this Peer sent comes first, then what was not asked for the longest."""
        asked = self._asked.get(one.series_instance_uid)
        sent_by_it = one.calling_ae_title == self._peer.ae_title
        return not sent_by_it, asked.at if asked else float("-inf")

    def _due_at(self, one: OpenSeries) -> float:
        asked = self._asked.get(one.series_instance_uid)
        if asked is None:
            return float("-inf")
        if asked.count.error is not None:
            return asked.next_at
        if one.instances != asked.held:
            return asked.at + (BETWEEN_SECONDS if one.is_arriving else 0.0)
        if asked.was_arriving and not one.is_arriving and _lacks(asked.count):
            return asked.at
        return asked.next_at

    def _forget_all_but(self, opened: Sequence[OpenSeries]) -> None:
        there = {one.series_instance_uid for one in opened}
        self._asked = {uid: asked for uid, asked in self._asked.items() if uid in there}

    def _ask(self, due: Sequence[OpenSeries]) -> None:
        left, is_asking = list(due), False
        try:
            with querying(self._peer, self._calling_ae_title) as query:
                is_asking = True
                while left and not self._stopping.wait(self._pace.wait_seconds()):
                    self._paced(left[0], query)
                    left.pop(0)
        except SegnodeError as error:
            for one in left[:1] if is_asking else left:  # the others have their turn at once
                self._unanswered(one, str(error))
            log.warning("a peer cannot be asked", peer=self._peer.name, error=str(error))
        except Exception as error:  # of this Series; the others are asked all the same
            log.exception("a count cannot be used", peer=self._peer.name)
            for one in left[:1]:
                self._unanswered(one, f"the answer cannot be used ({type(error).__name__})")
        self._on_counted()

    def _paced(self, one: OpenSeries, query: Query) -> None:
        before = query.questions
        try:
            self._answered(one, query)
        finally:
            self._pace.put(query.questions - before)

    def _answered(self, one: OpenSeries, query: Query) -> None:
        uid, study = one.series_instance_uid, one.study_instance_uid
        number = query.count(study, uid)
        now = time.monotonic()
        asked = self._asked.setdefault(uid, Asked(Count(self._peer.name)))
        before = asked.count.instances
        if number != before:
            asked.since, asked.pause = now, FIRST_PAUSE_SECONDS
            ahead = number - one.instances
            grew = asked.count.grew or (before is not None and number > before > 0)
        else:
            ahead, grew = asked.count.ahead, asked.count.grew
        if number != before or one.instances != asked.held:
            asked.resting_since = now
        rested = now - asked.resting_since
        is_compared = not one.is_arriving and (
            number > one.instances or (number == one.instances and rested >= self._times.settled)
        )
        missing, left_out = self._missing(one, query) if is_compared else ([], 0)
        asked.count = Count(
            self._peer.name,
            number,
            one.instances,
            ahead,
            now - asked.since,
            grew,
            tuple(missing[:_NAMED]),
            len(missing),
            rested_seconds=rested,
            left_out=left_out,
            compared=is_compared and not missing,
        )
        self._schedule(asked, one, now)
        self._series.add_count(uid, self._peer.name, count_values(asked.count), time.time())

    def _schedule(self, asked: Asked, one: OpenSeries, now: float) -> None:
        asked.held, asked.at, asked.was_arriving = one.instances, now, one.is_arriving
        count = asked.count
        number = (count.instances or 0) - count.left_out
        if number > one.instances or count.missing_count:
            asked.next_at = now + asked.pause
            asked.pause = min(asked.pause * 2, LONGEST_PAUSE_SECONDS)
        elif number == one.instances and count.rested_seconds < self._times.settled:
            asked.next_at = asked.resting_since + self._times.settled
        elif number == one.instances and count.stable_seconds < self._times.quiet_seconds:
            asked.next_at = asked.since + self._times.quiet_seconds
        elif number == one.instances and not count.compared:  # an Association is open still
            asked.next_at = now + self._times.quiet_seconds
        else:
            asked.next_at = float("inf")

    def _missing(self, one: OpenSeries, query: Query) -> tuple[list[str], int]:
        """What the Peer holds and we do not; how many more of that belong in no volume."""
        here = {i.sop_instance_uid for i in self._series.brought(one.series_instance_uid)}
        there = query.instances(one.study_instance_uid, one.series_instance_uid)
        more = [i for i in there if i.sop_instance_uid not in here]
        wanted = [i for i in more if not i.sop_class_uid or i.sop_class_uid in VOLUME_SOP_CLASSES]
        return [str(i) for i in wanted], len(more) - len(wanted)

    def _unanswered(self, one: OpenSeries, error: str) -> None:
        uid = one.series_instance_uid
        asked = self._asked.setdefault(uid, Asked(Count(self._peer.name)))
        asked.count = replace(asked.count, error=error)
        asked.held, asked.at = one.instances, time.monotonic()
        asked.next_at = asked.at + asked.pause
        asked.pause = min(asked.pause * 2, LONGEST_PAUSE_SECONDS)
        self._series.add_count(uid, self._peer.name, count_values(asked.count), time.time())


def _lacks(count: Count) -> bool:
    """Whether the end of the Association is a reason to ask once more."""
    return count.instances is None or count.instances >= count.held
