"""Builds everything from Config: what starts, in which order, and the reverse."""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from node.configured.models import engine_of, models_of
from node.configured.peers import gets_nothing
from node.configured.receiving import accepted_titles, commits_to, receiver_settings, why_nobody
from node.configured.routes import routes_of
from node.core.config import Config
from node.core.errors import ConfigError, Fatal
from node.core.model import Model, Profile
from node.dicom.inbox import Inbox
from node.dicom.outbox import Outbox
from node.dicom.receiver.supervisor import Receiver
from node.dicom.routing import Route
from node.inference.engine import WorkerEngine
from node.lanes.lane import Lane
from node.lanes.lanes import Lanes, Surroundings
from node.ordering import channel_route
from node.store import database
from node.store.lock import DataFolderLock
from node.store.stores import Stores

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
        _say_who_gets_nothing(config)
        stores = self._open(started)
        engine = self._start_engine(started, models)
        inbox, outbox = Inbox(config.node.data_dir), Outbox(config.node.data_dir)
        at_once = engine.workers * config.inference.jobs_in_flight
        lanes = Lanes(Surroundings(config, stores, inbox, outbox, models, routes, engine, at_once))
        self._recover(inbox, stores, routes, models)
        started.callback(self._stop.wait_for, lanes.keeping, LANE_STOP_SECONDS)
        started.callback(self._stop_segmenting, lanes.segmenting, engine)
        _start_lanes(lanes.keeping)
        self._listen(started, lanes.recording)
        started.callback(_ask_to_stop, [*lanes.keeping, *lanes.segmenting])
        self._wait_for_models(engine)
        _start_lanes(lanes.segmenting)

    def _open(self, started: ExitStack) -> Stores:
        """The data folder, for this process alone, and its database."""
        data_dir = self._config.node.data_dir
        _make_folder(data_dir, "node.data_dir")
        _make_folder(_cache(self._config), "node.data_dir")
        started.enter_context(DataFolderLock(data_dir))
        engine = database.connect(data_dir)
        started.callback(engine.dispose)
        database.migrate(engine)
        return Stores.on(engine)

    def _start_engine(self, started: ExitStack, models: Mapping[str, Model]) -> WorkerEngine:
        engine = engine_of(self._config, models, _cache(self._config))
        engine.start()  # loads and warms the Models while the rest starts
        started.callback(engine.stop)
        return engine

    def _stop_segmenting(self, lanes: Sequence[Lane], engine: WorkerEngine) -> None:
        """Lets predictions end that are nearly done; else gives them up, and their attempts."""
        self._stop.wait_for(lanes, SEGMENT_STOP_SECONDS, AFTER_SEGMENTING_SECONDS)
        engine.stop()
        self._stop.wait_for(lanes, LANE_STOP_SECONDS)

    def _recover(
        self,
        inbox: Inbox,
        stores: Stores,
        routes: Sequence[Route],
        models: Mapping[str, Model],
    ) -> None:
        """What a crash leaves is either whole or not acknowledged; nothing is repaired.

        What waited for a Peer is due at once, and Series that wait for another wait anew.
        """
        halves, now = inbox.clear_halves(), time.time()
        still_open = len(stores.series.open_series())
        log.info("data folder opened", unacknowledged_halves=halves, open_series=still_open)
        stores.deliveries.hurry(now)
        for name in sorted(stores.deliveries.peers_waited_for() - set(self._config.peers)):
            log.warning("results wait for a peer that is not in the configuration", peer=name)
        several = [channel_route(route, models) for route in routes if route.channels]
        for uid in stores.waiting.outdated(several):
            stores.series.reopen(uid, now)
            log.info("series is routed anew: its route has changed", series_instance_uid=uid)
        stores.waiting.restart(now)
        for title in stores.commitments.abandon(commits_to(self._config), now):
            log.warning("commitment cannot be answered: no peer is called so", ae_title=title)

    def _listen(self, started: ExitStack, recording: Lane) -> None:
        section = self._config.dicom
        accept_from = accepted_titles(self._config)
        if accept_from is not None and not accept_from:  # pynetdicom would take it for anyone
            raise ConfigError(why_nobody(self._config))
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


def _say_who_gets_nothing(config: Config) -> None:
    for name in gets_nothing(config):
        log.warning("a route sends to a peer that gets nothing: see its results", peer=name)


def _cache(config: Config) -> Path:
    """Where converted networks are kept."""
    return config.node.data_dir / "cache"


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
