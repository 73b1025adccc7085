"""All lanes of the node: what each takes its work from, and whom it wakes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from node.configured.peers import peers_of, wants_by_peer
from node.configured.receiving import commits_to
from node.configured.routes import periods_of, times_of
from node.core.config import Config
from node.core.model import Engine, Model
from node.core.names import AETitle
from node.dicom.inbox import Inbox
from node.dicom.outbox import Outbox
from node.dicom.routing import Route
from node.dicom.scu.commitment import report
from node.dicom.scu.peer import Peer
from node.dicom.trash import Trash
from node.judging import longest
from node.lanes.clock import WatchedClock
from node.lanes.close import CloseLane
from node.lanes.commit import CommitmentLane, taking_reports
from node.lanes.confirm import Confirming
from node.lanes.count import CountLane
from node.lanes.deliver import DeliverLane, InHand, Pauses
from node.lanes.give import GiveLane
from node.lanes.lane import Lane
from node.lanes.pace import Pace
from node.lanes.record import GATHER_SECONDS, RecordLane
from node.lanes.refuse import RefusalLane
from node.lanes.retain import RetentionLane
from node.lanes.segment import SegmentLane
from node.lanes.wait import WaitLane
from node.lanes.watch import JobsInHand
from node.ordering import channel_route
from node.recording import Commitment
from node.store.stores import Stores


@dataclass(frozen=True)
class Surroundings:
    """What the lanes work on, and with. segmenting: how many Jobs may be under way at once."""

    config: Config
    stores: Stores
    inbox: Inbox
    outbox: Outbox
    models: Mapping[str, Model]
    routes: Sequence[Route]
    engine: Engine
    segmenting: int

    @property
    def data_dir(self) -> Path:
        return self.config.node.data_dir

    @property
    def our_title(self) -> AETitle:
        return AETitle(self.config.dicom.ae_title)

    @property
    def peers(self) -> Sequence[Peer]:
        return list(peers_of(self.config).values())


class Lanes:
    """Built so that most wake only those built before; for recording see _wake_after_recording."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self.delivering = self._delivering()
        self.segmenting = self._segmenting()
        self.recording = self._recording()
        self.closing = self._closing()
        self.counting = self._counting()
        self.committing = self._committing()
        self._others = [self._waiting(), self._refusing(), self._giving(), self._retaining()]

    @property
    def keeping(self) -> list[Lane]:
        """All but those that segment."""
        own = [self.recording, self.closing, *self.counting, *self.committing]
        return [*own, *self._others, *self.delivering]

    def _wake_after_recording(self) -> None:
        _wake([self.closing, *self.counting, *self.committing])

    def _delivering(self) -> list[DeliverLane]:
        """For each Peer as many as it takes Associations at once: none delays another."""
        around, stores = self._around, self._around.stores
        section = around.config.delivery
        pauses = Pauses(section.retry_first_seconds, section.retry_max_seconds)
        lanes = []
        for peer in around.peers:
            in_hand, confirming = InHand(), None
            if peer.commitment:
                confirming = Confirming(
                    stores.deliveries, stores.jobs, peer, around.our_title, section.confirm_seconds
                )
            lanes += [
                DeliverLane(
                    number,
                    in_hand,
                    stores.deliveries,
                    around.outbox,
                    peer,
                    around.our_title,
                    pauses,
                    confirming,
                )
                for number in range(peer.max_associations)
            ]
        return lanes

    def _segmenting(self) -> list[SegmentLane]:
        around, in_hand = self._around, JobsInHand()
        return [
            SegmentLane(
                f"segment {number}",
                in_hand,
                around.stores.jobs,
                around.inbox,
                around.outbox,
                around.models,
                around.engine,
                wants_by_peer(around.config),
                around.config.inference.max_attempts,
                on_segmented=lambda: _wake(self.delivering),
            )
            for number in range(around.segmenting)
        ]

    def _recording(self) -> RecordLane:
        around, stores = self._around, self._around.stores
        reports = taking_reports(stores.deliveries, around.peers)
        return RecordLane(
            around.inbox,
            stores.series,
            on_recorded=self._wake_after_recording,
            commitment=Commitment(stores.commitments.add_all, reports),
            gather_seconds=GATHER_SECONDS,
        )

    def _closing(self) -> CloseLane:
        around = self._around
        return CloseLane(
            around.inbox,
            around.stores.series,
            around.routes,
            around.models,
            times_of(around.config),
            on_queued=lambda: _wake(self.segmenting),
            recording=self.recording,
            asks=[peer.name for peer in self._asked()],
            header_counts=around.config.closing.images_in_acquisition,
        )

    def _asked(self) -> list[Peer]:
        """The Peers that are asked how many Instances a Series has."""
        peers = self._around.config.peers
        return [peer for peer in self._around.peers if peers[peer.name].query]

    def _counting(self) -> list[CountLane]:
        around = self._around
        return [
            CountLane(
                around.stores.series,
                peer,
                around.our_title,
                longest(around.routes, times_of(around.config)),
                self.closing.wake,
                Pace(around.config.peers[peer.name].queries_per_second),
            )
            for peer in self._asked()
        ]

    def _committing(self) -> list[CommitmentLane]:
        """One for each AE title that may ask: no Peer delays another."""
        around, section = self._around, self._around.config.delivery
        pauses = section.retry_first_seconds, section.retry_max_seconds
        may_ask = commits_to(around.config)
        peers = {peer.ae_title: peer for peer in around.peers if peer.ae_title in may_ask}
        stores = around.stores
        return [
            CommitmentLane(
                stores.commitments,
                around.inbox,
                self.recording,
                peer,
                around.our_title,
                report,
                *pauses,
            )
            for peer in peers.values()
        ]

    def _waiting(self) -> WaitLane:
        routes, models = self._around.routes, self._around.models
        several = [channel_route(route, models) for route in routes if route.channels]
        return WaitLane(self._around.stores.waiting, several)

    def _refusing(self) -> RefusalLane:
        around, stores = self._around, self._around.stores
        return RefusalLane(
            stores.recipients,
            stores.jobs,
            around.inbox,
            stores.series,
            around.outbox,
            around.models,
            wants_by_peer(around.config),
            on_refused=lambda: _wake(self.delivering),
        )

    def _giving(self) -> GiveLane:
        stores, wants = self._around.stores, wants_by_peer(self._around.config)
        return GiveLane(stores.recipients, stores.jobs, wants, lambda: _wake(self.delivering))

    def _retaining(self) -> RetentionLane:
        around, data_dir = self._around, self._around.data_dir
        clock = WatchedClock(data_dir / "retention.clock")
        periods = periods_of(around.config)
        return RetentionLane(around.stores.retention, Trash(data_dir), periods, clock)


def _wake(lanes: Sequence[Lane]) -> None:
    for lane in lanes:
        lane.wake()
