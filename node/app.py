"""Builds everything from Config: what starts, in which order, and the reverse."""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog
from pydantic import SecretStr

from node.core.config import Config, PeerSection, RouteSection, TlsSection
from node.core.errors import ConfigError, Fatal
from node.core.model import Model, Profile
from node.core.names import AETitle
from node.core.result import Wants
from node.core.wants import wants_of
from node.dicom.closing.times import Times
from node.dicom.inbox import Inbox
from node.dicom.outbox import Outbox
from node.dicom.receiver.negotiation import Negotiated, negotiated
from node.dicom.receiver.settings import Settings, TlsFiles
from node.dicom.receiver.supervisor import Receiver
from node.dicom.routing import Route, with_models
from node.dicom.scu.commitment import report
from node.dicom.scu.peer import Peer, Web
from node.dicom.tls import Tls
from node.dicom.trash import Trash
from node.inference.engine import WorkerEngine
from node.inference.model import load_model
from node.lanes.clock import WatchedClock
from node.lanes.close import CloseLane, longest
from node.lanes.commit import CommitmentLane, taking_reports
from node.lanes.confirm import Confirming
from node.lanes.count import CountLane
from node.lanes.deliver import DeliverLane, InHand, Pauses
from node.lanes.give import GiveLane
from node.lanes.lane import Lane
from node.lanes.pace import Pace
from node.lanes.record import RecordLane
from node.lanes.refuse import RefusalLane
from node.lanes.retain import RetentionLane
from node.lanes.segment import SegmentLane
from node.lanes.wait import WaitLane
from node.lanes.watch import JobsInHand
from node.ordering import channel_route
from node.recording import Commitment
from node.store import database
from node.store.commitments import CommitmentStore
from node.store.deliveries import DeliveryStore
from node.store.jobs import JobStore
from node.store.lock import DataFolderLock
from node.store.recipients import RecipientStore
from node.store.retention import Periods, RetentionStore
from node.store.series import SeriesStore
from node.store.waiting import WaitingStore

log = structlog.get_logger()

READY_SECONDS = 600.0  # the longest that loading and warming every Model may take
# SIGTERM ends everything within 10 s; a step that takes longer is given up and runs again.
STOP_SECONDS = 9.0  # all of it, whatever its parts would like
SEGMENT_STOP_SECONDS = 4.0
LANE_STOP_SECONDS = 2.0
AFTER_SEGMENTING_SECONDS = 3.5  # of STOP_SECONDS: the engine's stop takes up to 2 s


class Node:
    """The running node. Enter starts it and returns when it is ready; exit drains and stops it."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._started = ExitStack()
        self._stop = Stop()
        self.port = config.dicom.port

    def __enter__(self) -> Self:
        began = time.monotonic()
        with ExitStack() as started:
            self._start(started)
            self._started = started.pop_all()
        log.info("ready", seconds=round(time.monotonic() - began, 1), port=self.port)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        log.info("stopping")
        self._stop.begin()
        self._started.close()
        log.info("stopped")

    def _start(self, started: ExitStack) -> None:
        config = self._config
        models = models_of(config)
        routes = routes_of(config, models)
        _say_what_is_assumed(models)
        data_dir = config.node.data_dir
        cache = data_dir / "cache"
        _make_folder(data_dir, "node.data_dir")
        _make_folder(cache, "node.data_dir")
        started.enter_context(DataFolderLock(data_dir))

        store = database.connect(data_dir)
        started.callback(store.dispose)
        database.migrate(store)
        series, jobs, deliveries = SeriesStore(store), JobStore(store), DeliveryStore(store)
        inbox = Inbox(data_dir)
        outbox = Outbox(data_dir)

        engine = engine_of(config, models, cache)
        engine.start()  # loads and warms the Models while the rest starts
        started.callback(engine.stop)

        our_title = AETitle(config.dicom.ae_title)
        delivering = _delivering(config, deliveries, jobs, outbox)
        wants = wants_by_peer(config)
        in_hand = JobsInHand()
        segmenting = [
            SegmentLane(
                f"segment {number}",
                in_hand,
                jobs,
                inbox,
                outbox,
                models,
                engine,
                wants,
                config.inference.max_attempts,
                on_segmented=lambda: _wake(delivering),
            )
            for number in range(engine.workers * config.inference.jobs_in_flight)
        ]
        asked = [peer for name, peer in peers_of(config).items() if config.peers[name].query]
        commitments = CommitmentStore(store)
        recording = RecordLane(
            inbox,
            series,
            on_recorded=lambda: _wake([closing, *counting, *committing]),
            commitment=Commitment(
                commitments.add_all, taking_reports(deliveries, peers_of(config).values())
            ),
        )
        committing = _committing(config, commitments, inbox, recording)
        closing = CloseLane(
            inbox,
            series,
            routes,
            models,
            times_of(config),
            on_queued=lambda: _wake(segmenting),
            recording=recording,
            asks=[peer.name for peer in asked],
            header_counts=config.closing.images_in_acquisition,
        )
        counting = [
            CountLane(
                series,
                peer,
                our_title,
                longest(routes, times_of(config)),
                closing.wake,
                Pace(config.peers[peer.name].queries_per_second),
            )
            for peer in asked
        ]
        waiting = WaitingStore(store)
        several = [channel_route(route, models) for route in routes if route.channels]

        self._recover(inbox, series)
        deliveries.hurry(time.time())
        for name in sorted(deliveries.peers_waited_for() - set(config.peers)):
            log.warning("results wait for a peer that is not in the configuration", peer=name)
        for uid in waiting.outdated(several):
            series.reopen(uid, time.time())
            log.info("series is routed anew: its route has changed", series_instance_uid=uid)
        waiting.restart(time.time())
        clock = WatchedClock(data_dir / "retention.clock")
        retaining = RetentionLane(RetentionStore(store), Trash(data_dir), periods_of(config), clock)
        recipients = RecipientStore(store)
        refusing = RefusalLane(
            recipients, jobs, inbox, series, outbox, models, wants, lambda: _wake(delivering)
        )
        giving = GiveLane(recipients, jobs, wants, lambda: _wake(delivering))
        waits = WaitLane(waiting, several)
        keeping = [recording, closing, *counting, waits, refusing, giving, retaining]
        keeping += committing
        for title in commitments.abandon(_commits_to(config), time.time()):
            log.warning("commitment cannot be answered: no peer is called so", ae_title=title)
        started.callback(self._stop.wait_for, [*keeping, *delivering], LANE_STOP_SECONDS)
        started.callback(self._stop_segmenting, segmenting, engine)
        _start_lanes([*keeping, *delivering])
        self._listen(started, recording)
        started.callback(_ask_to_stop, [*keeping, *delivering, *segmenting])
        self._wait_for_models(engine)
        _start_lanes(segmenting)

    def _stop_segmenting(self, lanes: Sequence[Lane], engine: WorkerEngine) -> None:
        """Lets predictions end that are nearly done; else gives them up, and their attempts."""
        self._stop.wait_for(lanes, SEGMENT_STOP_SECONDS, AFTER_SEGMENTING_SECONDS)
        engine.stop()
        self._stop.wait_for(lanes, LANE_STOP_SECONDS)

    def _recover(self, inbox: Inbox, series: SeriesStore) -> None:
        """What a crash leaves is either whole or not acknowledged; nothing is repaired."""
        halves = inbox.clear_halves()
        still_open = len(series.open_series())
        log.info("data folder opened", unacknowledged_halves=halves, open_series=still_open)

    def _listen(self, started: ExitStack, recording: Lane) -> None:
        section = self._config.dicom
        accept_from = accepted_titles(self._config)
        if accept_from is not None and not accept_from:  # pynetdicom would take it for anyone
            raise ConfigError('dicom.accept_from: nobody may send; name a peer, or ["*"]')
        if accept_from is None:
            log.warning("any AE Title may send: dicom.accept_from is *")
        receiver = Receiver(receiver_settings(self._config), recording.wake)
        by_tls = section.tls.port if section.tls.listens else None
        self.port = receiver.start(section.host, section.port or None, by_tls)
        started.callback(receiver.stop)
        log.info(
            "listening",
            ae_title=section.ae_title,
            host=section.host,
            port=section.port and self.port,
            tls_port=receiver.tls_port,
        )

    def _wait_for_models(self, engine: WorkerEngine) -> None:
        try:
            for name, seconds in engine.wait_ready(READY_SECONDS).items():
                log.info("model warm", model=name, seconds=round(seconds, 1))
        except Fatal as error:
            raise ConfigError(f"the models cannot be loaded: {error}") from error


def _delivering(
    config: Config, deliveries: DeliveryStore, jobs: JobStore, outbox: Outbox
) -> list[DeliverLane]:
    """For each Peer as many lanes as it takes Associations at once: none delays another."""
    section, our_title = config.delivery, AETitle(config.dicom.ae_title)
    pauses = Pauses(section.retry_first_seconds, section.retry_max_seconds)
    lanes = []
    for peer in peers_of(config).values():
        confirming, in_hand = None, InHand()
        if peer.commitment:
            confirming = Confirming(deliveries, jobs, peer, our_title, section.confirm_seconds)
        lanes += [
            DeliverLane(number, in_hand, deliveries, outbox, peer, our_title, pauses, confirming)
            for number in range(peer.max_associations)
        ]
    return lanes


def _committing(
    config: Config, commitments: CommitmentStore, inbox: Inbox, recording: RecordLane
) -> list[CommitmentLane]:
    """One for each AE title that may ask: no Peer delays another."""
    section, our_title = config.delivery, AETitle(config.dicom.ae_title)
    pauses = section.retry_first_seconds, section.retry_max_seconds
    may_ask = _commits_to(config)
    peers = {peer.ae_title: peer for peer in peers_of(config).values() if peer.ae_title in may_ask}
    return [
        CommitmentLane(commitments, inbox, recording, peer, our_title, report, *pauses)
        for peer in peers.values()
    ]


def wants_by_peer(config: Config) -> Mapping[str, Wants]:
    """Which result objects each Peer gets, by its name."""
    return {
        name: wants_of(section.profile, section.results.model_dump())
        for name, section in config.peers.items()
    }


def engine_of(config: Config, models: Mapping[str, Model], cache: Path) -> WorkerEngine:
    """The worker processes of the configuration, not started yet. cache: of converted networks."""
    section = config.inference
    return WorkerEngine(
        models,
        section.device,
        section.threads,
        section.timeout_seconds,
        workers=section.workers,
        heartbeat_seconds=section.heartbeat_seconds,
        backend=section.backend,
        cache=cache,
        memory_bytes=section.memory_mb * 1_000_000,
    )


def models_of(config: Config) -> Mapping[str, Model]:
    """Every Model of the configuration, read from its folder. Raises ConfigError."""
    models = {
        name: load_model(name, section.path, section.orientation, section.profile)
        for name, section in config.models.items()
    }
    seen: dict[str, str] = {}
    for model in models.values():
        if model.fingerprint in seen:  # two objects would get one SOP Instance UID
            raise ConfigError(
                f"models.{model.name}: is the same model as models.{seen[model.fingerprint]}; "
                "let both routes name one of them"
            )
        seen[model.fingerprint] = model.name
    return models


def _say_what_is_assumed(models: Mapping[str, Model]) -> None:
    for model in models.values():
        if model.orientation_assumed:
            log.warning(
                "nobody says how the training arrays lay: write it in model.toml",
                model=model.name,
                assumed=model.orientation,
            )
        if model.profile is not Profile.EXACT:
            log.warning(
                "the model does not run exact", model=model.name, profile=model.profile.value
            )


def routes_of(config: Config, models: Mapping[str, Model]) -> Sequence[Route]:
    """The Routes of the configuration. Raises ConfigError."""
    return with_models([route_of(section) for section in config.routes], models)


def route_of(section: RouteSection) -> Route:
    """One Route as it is written, not held against its Model yet."""
    return Route(**dict(section))


def periods_of(config: Config) -> Periods:
    """For how long files are kept."""
    return Periods(**dict(config.retention))


def times_of(config: Config) -> Times:
    """How long Series wait that no Route sets times for."""
    section = config.closing
    return Times(
        section.settle_seconds,
        section.quiet_seconds,
        section.last_limit_seconds,
        answer_seconds=section.answer_seconds,
    )


def peers_of(config: Config) -> Mapping[str, Peer]:
    """The Peers of the configuration by name."""
    return {name: _peer(name, section, config.dicom.tls) for name, section in config.peers.items()}


def accepted_titles(config: Config) -> set[AETitle] | None:
    """The calling AE Titles that may send; None for anyone."""
    names = config.dicom.accept_from
    if names is not None and "*" in names:
        return None
    peers = [config.peers[name] for name in (config.peers if names is None else names)]
    titles = [title for peer in peers for title in (peer.ae_title, peer.commitment_ae_title)]
    return {AETitle(title) for title in titles if title is not None}


def receiver_settings(config: Config) -> Settings:
    """What the receiving process is told."""
    node, dicom = config.node, config.dicom
    titles = accepted_titles(config)
    kinds = negotiation_of(config)
    return Settings(
        data_dir=str(node.data_dir),
        ae_title=dicom.ae_title,
        sop_classes=kinds.accepted,
        transfer_syntaxes=kinds.transfer_syntaxes,
        accept_from=None if titles is None else sorted(titles),
        check_called_ae_title=dicom.check_called_ae_title,
        echo_only=_may_not_store(config),
        tls_only=_tls_only(config),
        commits_to=_commits_to(config),
        tls=_tls_files(dicom.tls) if dicom.tls.listens else None,
        max_associations=dicom.max_associations,
        max_associations_per_peer=dicom.max_associations_per_peer,
        idle_seconds=dicom.idle_seconds,
        associate_seconds=dicom.associate_seconds,
        max_pdu_bytes=dicom.max_pdu_kib * 1024,
        max_instance_bytes=dicom.max_instance_mb * 1_000_000,
        min_free_bytes=node.min_free_mb * 1_000_000,
        low_free_bytes=node.low_free_mb * 1_000_000,
        max_aside_bytes=node.max_aside_mb * 1_000_000,
    )


def _may_not_store(config: Config) -> Sequence[str]:
    """Of those that may associate; a title that only reports commitments is no sender."""
    own = [p.ae_title for p in config.peers.values() if p.ae_title and not p.may_store]
    senders = set(_commits_to(config))
    reporting = {p.commitment_ae_title for p in config.peers.values() if p.commitment_ae_title}
    return own if accepted_titles(config) is None else [*own, *sorted(reporting - senders)]


def _commits_to(config: Config) -> Sequence[str]:
    """Who may ask us for Storage Commitment: who may store, and can be answered."""
    return [p.ae_title for p in config.peers.values() if p.ae_title and p.may_store]


def _tls_only(config: Config) -> Sequence[str]:
    """Who may not come over the plain port; nobody where there is no other."""
    secure = [p for p in config.peers.values() if p.tls]
    titles = [title for p in secure for title in (p.ae_title, p.commitment_ae_title) if title]
    return titles if config.dicom.tls.listens else []


def _tls_files(section: TlsSection) -> TlsFiles:
    def text(path: Path | None) -> str | None:
        return None if path is None else str(path)

    return TlsFiles(str(section.certificate), text(section.key), text(section.clients_ca))


def negotiation_of(config: Config) -> Negotiated:
    """What is accepted of what a sender proposes."""
    return negotiated(config.dicom.accept.model_dump())


def _peer(name: str, section: PeerSection, ours: TlsSection) -> Peer:
    return Peer(
        name,
        AETitle(section.ae_title or ""),
        section.host or "",
        section.port or 0,
        section.timeout_seconds,
        tls=_tls(section, ours, section.tls_ca or ours.ca) if section.tls else None,
        web=_web(section, ours) if section.url else None,
        commitment=section.commitment,
        max_associations=section.max_associations,
        commitment_ae_title=AETitle(section.commitment_ae_title or "") or None,
    )


def _tls(section: PeerSection, ours: TlsSection, ca: Path | None) -> Tls:
    """The Peer's own certificate and key go together, and so do the node's."""
    own = section.tls_certificate is not None
    return Tls(
        ca,
        section.tls_certificate if own else ours.certificate,
        section.tls_key if own else ours.key,
        section.tls_verify_host_name,
    )


def _web(section: PeerSection, ours: TlsSection) -> Web:
    def text(secret: SecretStr | None) -> str:
        return secret.get_secret_value() if secret else ""

    return Web(
        (section.url or "").rstrip("/"),
        section.user or "",
        text(section.password),
        text(section.token),
        _tls(section, ours, section.tls_ca),
    )


def _make_folder(path: Path, key: str) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{key}: {path} cannot be made: {error.strerror}") from error


class Stop:
    """The one deadline that all which is stopped shares."""

    def __init__(self) -> None:
        self._deadline: float | None = None

    def begin(self) -> None:
        """The time runs from the first call."""
        if self._deadline is None:
            self._deadline = time.monotonic() + STOP_SECONDS

    def wait_for(self, lanes: Sequence[Lane], seconds: float, reserved: float = 0.0) -> None:
        """Ends the lanes after their step at hand; what takes longer is cut off and runs again."""
        self.begin()
        assert self._deadline is not None
        _ask_to_stop(lanes)
        until = min(time.monotonic() + seconds, self._deadline - reserved)
        for lane in lanes:
            if lane.is_alive():
                lane.join(max(0.0, until - time.monotonic()))


def _start_lanes(lanes: Sequence[Lane]) -> None:
    for lane in lanes:
        lane.start()


def _ask_to_stop(lanes: Sequence[Lane]) -> None:
    for lane in lanes:
        lane.request_stop()


def _wake(lanes: Sequence[Lane]) -> None:
    for lane in lanes:
        lane.wake()
