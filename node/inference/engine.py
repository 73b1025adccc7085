"""Engines: a warm worker process beside the node, or everything in this process.

Imports neither torch nor nnunetv2; InProcessEngine does on first use.
"""

import contextlib
import threading
from collections.abc import Mapping, Sequence

import structlog

from node.core.errors import Fatal, Temporary
from node.core.model import Model, Segmenter, Tell, tell_nobody
from node.core.volume import LabelMap, Volume
from node.inference import environment
from node.inference.child import Child

_LOAD_SECONDS = 600.0  # a worker that replaces a dead one must be ready by then

log = structlog.get_logger()


class WorkerEngine:
    """Segments in one child process, which is replaced when it dies, hangs or is spoiled.

    timeout_seconds bounds one request, from sending the Volumes to the answer.
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        device: str = "auto",
        threads: int = 0,
        timeout_seconds: float = 3600.0,
    ) -> None:
        self._models = dict(models)
        self._device, self._threads = device, threads
        self._timeout_seconds = timeout_seconds
        self._turn = threading.Lock()  # one request at a time
        self._change = threading.Lock()  # guards _child and _stopped; held only for moments
        self._child: Child | None = None
        self._stopped = True

    @property
    def pid(self) -> int | None:
        """The worker process, or None while there is none."""
        child = self._child
        return child.pid if child and child.alive else None

    def start(self) -> None:
        """Starts the worker process; it loads in the background. Raises Temporary."""
        with self._change:
            self._stopped = False
        self._living_child()

    def wait_ready(self, timeout: float) -> dict[str, float]:
        """Seconds to load and warm each model, by name, once all of them are.

        Raises Fatal with the worker's reason, or when `timeout` seconds have passed.
        """
        with self._turn:
            child = self._child
            if child is None:
                raise Fatal("the worker was not started")
            try:
                return child.wait_ready(timeout)
            except Temporary as error:
                raise Fatal(str(error)) from error

    def segment(
        self, volumes: Sequence[Volume], model: Model, tell: Tell = tell_nobody
    ) -> LabelMap:
        """As Engine.segment. Raises Temporary when the worker dies or hangs; another one follows.

        Raises Fatal when the worker cannot load its models, RuntimeError with the worker's
        traceback for a bug.
        """
        if self._models.get(model.name) != model:
            raise ValueError(f'the worker was not given this model "{model.name}"')
        with self._turn:
            child = self._living_child()
            try:
                child.wait_ready(_LOAD_SECONDS)
                return child.segment(model.name, volumes, self._timeout_seconds)
            finally:
                self._replace_if_dead(child)

    def stop(self) -> None:
        """Ends the worker process within 2 s, whatever it is doing."""
        with self._change:
            self._stopped = True
            child, self._child = self._child, None
        if child is not None:
            child.stop()

    def _living_child(self) -> Child:
        with self._change:
            if self._stopped:
                raise Temporary("the worker is stopped")
            if self._child is None or not self._child.alive:
                try:
                    self._child = Child(self._models, self._device, self._threads)
                except OSError as error:  # no memory or no process left
                    raise Temporary(f"the worker cannot be started: {error}") from error
            return self._child

    def _replace_if_dead(self, child: Child) -> None:
        """The next request shall not have to wait for a whole start."""
        if not child.alive and not child.failed_to_load:
            with contextlib.suppress(Temporary):  # stopped, or to be tried by the next request
                self._living_child()


class InProcessEngine:
    """Segments in this process, for `segnode predict`. Models are loaded on first use."""

    def __init__(self, device: str = "auto", threads: int = 0) -> None:
        self._device, self._threads = device, threads
        self._turn = threading.Lock()
        self._segmenters: dict[str, Segmenter] = {}  # by fingerprint

    def segment(
        self, volumes: Sequence[Volume], model: Model, tell: Tell = tell_nobody
    ) -> LabelMap:
        """As Engine.segment. Raises ConfigError when the model cannot be loaded."""
        with self._turn:
            if model.fingerprint not in self._segmenters:
                self._segmenters[model.fingerprint] = self._load(model)
            return self._segmenters[model.fingerprint].segment(volumes)

    def _load(self, model: Model) -> Segmenter:
        environment.prepare(self._threads)
        from node.inference.segmenter import NnunetSegmenter  # torch and nnunetv2: only now

        return NnunetSegmenter(model, self._device, self._threads)
