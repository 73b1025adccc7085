"""Engines: warm worker processes beside the node, or everything in this process.

Imports neither torch nor nnunetv2; InProcessEngine does on first use.
"""

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from node.core.errors import Fatal, Temporary
from node.core.model import Model, Segmenter, Tell, tell_nobody
from node.core.volume import LabelMap, Volume
from node.inference import devices, environment
from node.inference.worker.child import Child
from node.inference.worker.main import Settings

_PAUSES_SECONDS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)  # between deaths in a row
_LOAD_SECONDS = 600.0  # a worker that replaces a dead one must be ready by then

log = structlog.get_logger()


class WorkerEngine:
    """Segments in child processes, each of which is replaced when it dies, hangs or is spoiled.

    device: "auto" takes every GPU that is there, else the CPU. workers: per device.
    timeout_seconds bounds each of the three steps of a request, heartbeat_seconds a worker's
    silence. memory_bytes: what the models of one worker may hold at rest, as in Settings.
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        device: str = "auto",
        threads: int = 0,
        timeout_seconds: float = 3600.0,
        *,
        workers: int = 1,
        heartbeat_seconds: float = 60.0,
        backend: str = "auto",
        cache: Path | None = None,
        memory_bytes: int = 0,
    ) -> None:
        self._models = dict(models)
        self._timeout_seconds, self._heartbeat_seconds = timeout_seconds, heartbeat_seconds
        names = [name for name in devices.resolve(device) for _ in range(workers)]
        shared = threads or (max(1, environment.cores(0) // len(names)) if len(names) > 1 else 0)
        settings = Settings("", shared, backend, cache, memory_bytes)
        self._posts = [_Post(replace(settings, device=name)) for name in names]
        self._change = threading.Lock()  # guards _posts and _stopped; held only for moments
        self._stopped = threading.Event()
        self._stopped.set()

    @property
    def workers(self) -> int:
        """How many processes there are to be."""
        return len(self._posts)

    @property
    def pids(self) -> list[int]:
        """The worker processes that live."""
        children = [post.child for post in self._posts]
        return [child.pid for child in children if child and child.alive and child.pid]

    def start(self) -> None:
        """Starts the worker processes; they load in the background. Raises Temporary."""
        with self._change:
            self._stopped.clear()
            self._fill_posts()

    def wait_ready(self, timeout: float) -> dict[str, float]:
        """Seconds to load and warm each model, by name, once every worker has all of them.

        Raises Fatal with a worker's reason, or when `timeout` seconds have passed.
        """
        deadline = time.monotonic() + timeout
        seconds: dict[str, float] = {}
        for post in self._posts:
            if post.child is None:
                raise Fatal("the worker was not started")
            try:
                seconds |= post.child.wait_ready(max(0.0, deadline - time.monotonic()))
            except Temporary as error:
                raise Fatal(str(error)) from error
        return seconds

    def segment(
        self,
        volumes: Sequence[Volume],
        model: Model,
        tell: Tell = tell_nobody,
        probabilities: bool = False,
    ) -> LabelMap:
        """As Engine.segment, from any number of threads. `tell` is called in the calling one.

        Raises Temporary when the worker dies or hangs; another one follows. Raises Fatal when the
        worker cannot load its models, RuntimeError with the worker's traceback for a bug.
        """
        if self._models.get(model.name) != model:
            raise ValueError(f'the worker was not given this model "{model.name}"')
        with self._placed(model) as child:
            child.wait_ready(_LOAD_SECONDS)
            return child.segment(model.name, volumes, tell, probabilities)

    def stop(self) -> None:
        """Ends the worker processes within 2 s, whatever they are doing."""
        with self._change:
            self._stopped.set()
            children = [post.child for post in self._posts if post.child is not None]
            for post in self._posts:
                post.child = None
        for child in children:
            child.stop()

    @contextlib.contextmanager
    def _placed(self, model: Model) -> Iterator[Child]:
        """The worker for a request: one that is ready, with few to answer, that has the model."""
        with self._change:
            self._fill_posts()
            children = [post.child for post in self._posts if post.child is not None]
            child = min(children, key=lambda child: _burden(child, model))
            child.requests += 1
        try:
            yield child
        finally:
            with self._change:
                child.requests -= 1

    def _fill_posts(self) -> None:
        """Starts a process at each post that has none alive. The caller holds the lock."""
        if self._stopped.is_set():
            raise Temporary("the worker is stopped")
        for post in self._posts:
            if post.child is None or not post.child.alive:
                try:
                    post.child = self._new_child(post.settings)
                except OSError as error:  # no memory or no process left
                    raise Temporary(f"the worker cannot be started: {error}") from error

    def _new_child(self, settings: Settings) -> Child:
        return Child(
            self._models, settings, self._timeout_seconds, self._heartbeat_seconds, self._replace
        )

    def _replace(self, dead: Child) -> None:
        """The next request shall not have to wait for a whole start.

        What never became ready is started again by the next request only, or it would be for ever.
        Runs in the dead one's thread, which may wait.
        """
        if not dead.ready or self._stopped.wait(self._pause_after(dead)):
            return
        with self._change, contextlib.suppress(Temporary):  # stopped, or tried again later
            self._fill_posts()

    def _pause_after(self, dead: Child) -> float:
        """Seconds: none after a death that came alone, then more with each one that follows."""
        with self._change:
            post = next((post for post in self._posts if post.child is dead), None)
            if post is None:
                return 0.0
            post.deaths = 0 if dead.did_well else post.deaths + 1
            if post.deaths < 2:
                return 0.0
            pause = _PAUSES_SECONDS[min(post.deaths - 2, len(_PAUSES_SECONDS) - 1)]
        log.warning(
            "worker dies again and again; started again after a pause, or for the next job",
            pid=dead.pid, deaths=post.deaths, pause_seconds=pause,
        )  # fmt: skip
        return pause


def _burden(child: Child, model: Model) -> tuple[bool, int, bool]:
    """The less, the better this worker for a request."""
    return not child.ready, child.requests, model.fingerprint not in child.resident


@dataclass
class _Post:
    """A place for one worker, and the process that is there now.

    deaths: of workers here, one after the other, that were ready and did not do well.
    """

    settings: Settings
    child: Child | None = None
    deaths: int = 0


class InProcessEngine:
    """Segments in this process, for `segnode predict`. Models are loaded on first use."""

    def __init__(
        self,
        device: str = "auto",
        threads: int = 0,
        backend: str = "auto",
        cache: Path | None = None,
    ) -> None:
        self._device, self._threads = device, threads
        self._backend, self._cache = backend, cache
        self._turn = threading.Lock()
        self._segmenters: dict[str, Segmenter] = {}  # by fingerprint

    def segment(
        self,
        volumes: Sequence[Volume],
        model: Model,
        tell: Tell = tell_nobody,
        probabilities: bool = False,
    ) -> LabelMap:
        """As Engine.segment. Raises ConfigError when the model cannot be loaded."""
        with self._turn:
            if model.fingerprint not in self._segmenters:
                self._segmenters[model.fingerprint] = self._load(model)
            segmenter = self._segmenters[model.fingerprint]
            return segmenter.segment(volumes, tell, probabilities)

    def _load(self, model: Model) -> Segmenter:
        environment.prepare(self._threads)
        from node.inference.segmenter import NnunetSegmenter  # torch and nnunetv2: only now

        return NnunetSegmenter(model, self._device, self._threads, self._backend, self._cache)
