"""One worker process as its parent sees it: from start to death."""

import contextlib
import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import structlog
from numpy.typing import NDArray

from node.core.errors import Fatal, Temporary
from node.core.model import Model, Progress, Tell, tell_nobody
from node.core.volume import LabelMap, Volume
from node.inference.worker.main import Settings
from node.inference.worker.messages import (
    Answered,
    Beat,
    Cancel,
    Failed,
    Loaded,
    Logged,
    Probable,
    Progressed,
    Ready,
    Request,
)
from node.inference.worker.process import REAP_SECONDS, WorkerProcess

_CANCEL_SECONDS = 60.0  # for a tile on a slow machine, or an export, which cannot be interrupted
_LONG_LIFE_SECONDS = 60.0
_TICKS = 20  # in heartbeat_seconds
_STEPS = 3  # prepare, predict, finish

# For each request at most six small messages a second, and its answer; None: the process is gone.
_Mailbox = queue.SimpleQueue[Progressed | Beat | Probable | Answered | Failed | None]

log = structlog.get_logger()


class Child:
    """A worker process that loads `models`; started by the constructor, never used again once dead.

    timeout_seconds bounds each step of a request, heartbeat_seconds its silence. on_end is called
    once, from a thread of the child's, when the process is gone.
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        settings: Settings,
        timeout_seconds: float,
        heartbeat_seconds: float,
        on_end: Callable[["Child"], None],
    ) -> None:
        self._timeout_seconds, self._heartbeat_seconds = timeout_seconds, heartbeat_seconds
        self._on_end = on_end
        self._begin = time.monotonic()
        self._load_seconds: dict[str, float] = {}
        self._load_error: Exception | None = None
        self._settled = threading.Event()  # ready, or dead
        self._buried = threading.Event()
        self._numbers = itertools.count(1)
        self._mailboxes: dict[int, _Mailbox] = {}
        self._guard = threading.Lock()  # of _mailboxes
        self._heard = 0  # messages
        self.resident: frozenset[str] = frozenset()  # fingerprints
        self.ready = False
        self._ready_at = 0.0  # monotonic
        self._answered = False  # any request, with labels
        self.requests = 0  # counted by the engine that places them
        self._process = WorkerProcess(models, settings)
        for name, work in (("read worker", self._read), ("watch worker", self._watch)):
            threading.Thread(target=work, name=name, daemon=True).start()

    @property
    def pid(self) -> int | None:
        """Of the process, dead or alive."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it can still take a request."""
        return self._process.end_reason is None

    @property
    def did_well(self) -> bool:
        """Whether it became ready and then answered, or lived for a while at least."""
        lived = time.monotonic() - self._ready_at
        return self.ready and (self._answered or lived > _LONG_LIFE_SECONDS)

    # -- for those who have work for it

    def wait_ready(self, timeout: float) -> dict[str, float]:
        """Seconds to load and warm each model. Raises Temporary when it dies or takes longer.

        Raises Fatal with its reason when it cannot load a model.
        """
        if not self._settled.wait(timeout):
            self._process.die(f"was not ready within {timeout:g} s")
        if self._load_error is not None:
            raise self._load_error
        if not self.ready:
            raise self._death()
        return dict(self._load_seconds)

    def segment(
        self,
        model: str,
        volumes: Sequence[Volume],
        tell: Tell = tell_nobody,
        probabilities: bool = False,
    ) -> LabelMap:
        """Labels for the Volumes. Raises Temporary when it dies or hangs, and what it raised.

        `tell` is called in this thread, once a second at least; what it raises cancels the request
        and is raised once the worker has let go of it.
        """
        with self._mailbox() as (number, mailbox):
            # Each request before this one may take its time for a step, and this one for three.
            limit = (len(self._mailboxes) + _STEPS) * self._timeout_seconds
            deadline = time.monotonic() + limit
            self._send(Request(number, model, tuple(volumes), probabilities))
            progress, found = Progress(0.0), dict[int, NDArray[np.uint8]]()
            while True:
                message = self._next(mailbox, deadline, f"gave no answer within {limit:g} s")
                if isinstance(message, Answered):
                    return replace(message.label_map, probabilities=found or None)
                if isinstance(message, Failed):
                    raise message.error
                if isinstance(message, Probable):
                    found[message.label] = message.array
                if isinstance(message, Progressed):
                    progress = Progress(message.done, message.note)
                self._tell(progress, tell, number, mailbox)
                progress = replace(progress, note=None)

    def stop(self) -> None:
        """Kills the process; it holds nothing that would be lost."""
        self._process.stop()

    @contextlib.contextmanager
    def _mailbox(self) -> Iterator[tuple[int, _Mailbox]]:
        """A request's number, and where what concerns it arrives."""
        number, mailbox = next(self._numbers), _Mailbox()
        with self._guard:
            self._mailboxes[number] = mailbox
            if self._buried.is_set():
                mailbox.put(None)
        try:
            yield number, mailbox
        finally:
            with self._guard:
                del self._mailboxes[number]

    def _send(self, message: Request | Cancel) -> None:
        """A send that the process does not take ends with the process: see _watch."""
        try:
            self._process.channel.send(message)
        except OSError as error:
            raise self._death() from error

    def _next(
        self, mailbox: _Mailbox, deadline: float, overrun: str
    ) -> Progressed | Beat | Probable | Answered | Failed:
        try:
            message = mailbox.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            self._process.die(f"{overrun} and was killed")
            message = None
        if message is None:
            raise self._death()
        return message

    def _tell(self, progress: Progress, tell: Tell, number: int, mailbox: _Mailbox) -> None:
        try:
            tell(progress)
        except Exception:  # the caller's own, of any kind: it ends the request
            with contextlib.suppress(Temporary):  # it died: that ended the request, too
                self._cancel(number, mailbox)
            raise

    def _cancel(self, number: int, mailbox: _Mailbox) -> None:
        self._send(Cancel(number))
        deadline = time.monotonic() + _CANCEL_SECONDS
        overrun = f"did not let go of a cancelled request within {_CANCEL_SECONDS:g} s"
        while not isinstance(self._next(mailbox, deadline, overrun), Answered | Failed):
            pass

    # -- what it says

    def _read(self) -> None:
        """Takes what the process says, until it is gone."""
        try:
            while True:
                message = self._process.channel.receive()
                self._heard += 1
                self._dispatch(message)
        except (EOFError, OSError):
            pass
        except Exception as error:  # bytes that do not unpickle raise whatever they like
            log.exception("a worker's message could not be taken", pid=self.pid)
            self._process.die(f"said what its parent does not understand: {error!r}")
        self._bury()

    def _dispatch(self, message: object) -> None:
        if isinstance(message, Progressed | Probable | Answered):
            self._answered = self._answered or isinstance(message, Answered)
            self._post(message.id, message)
        elif isinstance(message, Failed):
            self._failed(message)
        elif isinstance(message, Beat):
            self._beat(message)
        elif isinstance(message, Logged):
            at_level = log.warning if message.level in ("warning", "error") else log.info
            at_level(message.event, pid=self.pid, **message.values)
        elif isinstance(message, Loaded):
            self._load_seconds[message.model] = round(message.seconds, 3)
        elif isinstance(message, Ready):
            self._ready_at = time.monotonic()
            self.ready = True
            self._settled.set()
            seconds = round(time.monotonic() - self._begin, 3)
            log.info("worker ready", pid=self.pid, seconds=seconds, models=self._load_seconds)

    def _post(self, number: int, message: Progressed | Probable | Answered | Failed) -> None:
        with self._guard:
            mailbox = self._mailboxes.get(number)
        if mailbox is not None:
            mailbox.put(message)

    def _failed(self, failed: Failed) -> None:
        if failed.id is not None:
            self._post(failed.id, failed)
            if failed.spoiled:
                self._process.die(f"is replaced after a failure: {failed.error}")
        elif self.ready:
            self._process.die(f"is replaced after a failure: {failed.error}")
        else:
            kind = Temporary if isinstance(failed.error, Temporary) else Fatal
            self._load_error = kind(f"the worker cannot load its models: {failed.error}")
            self._process.die(f"could not load its models: {failed.error}")

    def _beat(self, beat: Beat) -> None:
        self.resident = beat.resident
        for doing in beat.doing:
            if doing.seconds > self._timeout_seconds:
                limit = f"{self._timeout_seconds:g} s"
                self._process.die(
                    f"did not end a request's step {doing.step} in {limit} and was killed"
                )
        with self._guard:
            mailboxes = tuple(self._mailboxes.values())
        for mailbox in mailboxes:
            mailbox.put(beat)

    def _watch(self) -> None:
        """Kills the process when it is silent for too long.

        Ticks are counted, not seconds: a parent that slept itself finds the messages waiting.
        While models are loaded the interpreter may be held for long; wait_ready has its own limit.
        """
        before, silent = 0, 0
        while not self._buried.wait(self._heartbeat_seconds / _TICKS):
            silent = silent + 1 if self.ready and self._heard == before else 0
            before = self._heard
            if silent >= _TICKS:
                self._process.die(
                    f"said nothing for {self._heartbeat_seconds:g} s and was killed: it hung"
                )

    # -- its end

    def _bury(self) -> None:
        """The pipe has ended: tells everybody who waits, and the one who may replace it."""
        self._process.found_dead()
        self._settled.set()
        with self._guard:
            self._buried.set()
            for mailbox in self._mailboxes.values():
                mailbox.put(None)
        self._on_end(self)

    def _death(self) -> Temporary:
        """What to raise when it is gone; its reason is known a moment after its pipe has ended."""
        self._buried.wait(2 * REAP_SECONDS)
        return Temporary(f"the worker (pid {self.pid}) {self._process.end_reason}")
