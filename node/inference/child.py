"""One worker process as its parent sees it: from start to death."""

import contextlib
import multiprocessing
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence

import structlog

from node.core.errors import Fatal, Temporary
from node.core.model import Model
from node.core.volume import LabelMap, Volume
from node.inference import worker
from node.inference.worker import Failed, Loaded, Request, receive, send

_REAP_SECONDS = 1.0  # to wait for a process that is as good as dead

log = structlog.get_logger()


class Child:
    """A worker process that loads `models`; started by the constructor, never used again once dead.

    `spawn` gives it nothing of the parent's but one end of a pipe: no locks, no sockets.
    """

    def __init__(self, models: Mapping[str, Model], device: str, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=worker.main, args=(theirs, models, device, threads), daemon=True
        )
        self._begin = time.monotonic()
        self._load_seconds: dict[str, float] = {}
        self._ready = False
        self._ending = threading.Lock()
        self._end_reason: str | None = None
        self.failed_to_load = False
        with _interrupts_blocked():
            self._process.start()
        theirs.close()  # or its death would not read as the end of the pipe
        log.info("worker started", pid=self.pid, models=sorted(models))

    @property
    def pid(self) -> int | None:
        """Of the process, dead or alive."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it can still take a request."""
        return self._end_reason is None and self._process.is_alive()

    def wait_ready(self, timeout: float) -> dict[str, float]:
        """Seconds to load and warm each model. Raises Temporary when it dies or takes longer.

        Raises Fatal with its reason when it cannot load a model.
        """
        with self._limited_to(timeout, f"was not ready within {timeout:g} s"):
            while not self._ready:
                self._note(receive(self._connection))
        return dict(self._load_seconds)

    def segment(self, model: str, volumes: Sequence[Volume], timeout: float) -> LabelMap:
        """Labels for the Volumes. Raises Temporary when it dies or hangs, and what it raised."""
        with self._limited_to(timeout, f"gave no answer within {timeout:g} s and was killed"):
            send(self._connection, Request(model, tuple(volumes)))
            answer = receive(self._connection)
        if isinstance(answer, Failed):
            if answer.spoiled:
                self._die(f"is replaced after a failure: {answer.error}")
            raise answer.error
        assert isinstance(answer, LabelMap), answer
        return answer

    def stop(self) -> None:
        """Kills the process; it holds nothing that would be lost."""
        if self._end("was stopped"):
            log.info("worker stopped", pid=self.pid)

    def _die(self, reason: str) -> None:
        if self._end(reason):
            log.warning("worker died", pid=self.pid, reason=reason)

    def _end(self, reason: str) -> bool:
        """Makes sure that the process is gone, whoever asks first; only that reason counts."""
        with self._ending:
            first = self._end_reason is None
            self._end_reason = self._end_reason or reason
            if first:
                self._process.kill()
                self._process.join(_REAP_SECONDS)
            return first

    def _note(self, message: object) -> None:
        if isinstance(message, Failed):
            self.failed_to_load = True
            self._die(f"could not load its models: {message.error}")
            raise Fatal(f"the worker cannot load its models: {message.error}") from message.error
        if isinstance(message, Loaded):
            self._load_seconds[message.model] = round(message.seconds, 3)
            return
        self._ready = True
        seconds = round(time.monotonic() - self._begin, 3)
        log.info("worker ready", pid=self.pid, seconds=seconds, models=self._load_seconds)

    @contextlib.contextmanager
    def _limited_to(self, seconds: float, overrun: str) -> Iterator[None]:
        """Kills the process after `seconds`; its death, from any cause, is raised as Temporary.

        A blocked send or a half-sent answer ends with the process: no other limit reaches them.
        """
        timer = threading.Timer(seconds, self._die, [overrun])
        timer.daemon = True
        timer.start()
        try:
            yield
        except (EOFError, OSError) as error:
            raise Temporary(f"the worker (pid {self.pid}) {self._obituary()}") from error
        finally:
            timer.cancel()

    def _obituary(self) -> str:
        """Why it is dead; called when the pipe has ended."""
        self._process.join(_REAP_SECONDS)
        code = self._process.exitcode
        if code is not None and code < 0:
            found = f"was killed by {signal.Signals(-code).name}"
            found += "; out of memory?" if -code == signal.SIGKILL else ""
        else:
            found = f"ended with exit code {code}"
        self._die(found)
        return self._end_reason or found


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """A child inherits the mask: Ctrl-C cannot hit it before it has said that it ignores it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
