"""One worker process: how it is started, killed and reaped, and what it died of."""

import contextlib
import multiprocessing
import signal
import threading
import time
from collections.abc import Iterator, Mapping

import structlog

from node.core.model import Model
from node.inference.worker.main import Settings, main
from node.inference.worker.messages import Channel

REAP_SECONDS = 1.0  # to wait for a process that is as good as dead

log = structlog.get_logger()


class WorkerProcess:
    """A process that runs `worker.main.main`, started by the constructor.

    `spawn` gives it nothing of the parent's but one end of a pipe: no locks, no sockets.
    """

    def __init__(self, models: Mapping[str, Model], settings: Settings) -> None:
        context = multiprocessing.get_context("spawn")
        connection, theirs = context.Pipe()
        self.channel = Channel(connection)
        self._ending = threading.Lock()
        self.end_reason: str | None = None
        self._process = context.Process(target=main, args=(theirs, models, settings), daemon=True)
        with _interrupts_blocked():
            self._process.start()
        theirs.close()  # or its death would not read as the end of the pipe
        log.info("worker started", pid=self.pid, device=settings.device, models=sorted(models))

    @property
    def pid(self) -> int | None:
        """Of the process, dead or alive."""
        return self._process.pid

    def die(self, reason: str) -> None:
        """Ends it because something is wrong with it."""
        if self._end(reason):
            log.warning("worker died", pid=self.pid, reason=reason)

    def stop(self) -> None:
        """Ends it; it holds nothing that would be lost."""
        if self._end("was stopped"):
            log.info("worker stopped", pid=self.pid)

    def found_dead(self) -> None:
        """Its pipe has ended: says why, if nobody here wanted it to."""
        if self.end_reason is None:
            self.die(self._cause_of_death())

    def _end(self, reason: str) -> bool:
        """Makes sure that the process is gone, whoever asks first; only that reason counts."""
        with self._ending:
            first = self.end_reason is None
            self.end_reason = self.end_reason or reason
            if first:
                self._process.kill()
                self._process.join(REAP_SECONDS)
            return first

    def _cause_of_death(self) -> str:
        deadline = time.monotonic() + REAP_SECONDS
        while (code := self._process.exitcode) is None and time.monotonic() < deadline:
            self._process.join(0.05)
        if code is None or code >= 0:
            return f"ended with exit code {code}"
        guess = "; out of memory?" if -code == signal.SIGKILL else ""
        return f"was killed by {signal.Signals(-code).name}{guess}"


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """A child inherits the mask: Ctrl-C cannot hit it before it has said that it ignores it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
