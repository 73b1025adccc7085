"""The node's side of the receiving process: starts it, hears it, starts it again."""

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import structlog

import node
from node.core.errors import ConfigError
from node.dicom.receiver.reports import ENDED, LOG, OPENED, READY
from node.dicom.receiver.settings import NOTHING, Settings
from node.dicom.receiver.spool import AssociationRecord, Clock, write_end
from node.dicom.tls import server_context

log = structlog.get_logger()

READY_SECONDS: Final = 60.0
STOP_SECONDS: Final = 2.5
KILL_SECONDS: Final = 0.5  # for the end of one that was killed
_FIRST_PAUSE_SECONDS: Final = 0.5  # before it is started again; doubles while it dies at once
_LONGEST_PAUSE_SECONDS: Final = 30.0
_LIVED_SECONDS: Final = 60.0  # one that lived so long did not die of its start
_FLOW_SECONDS: Final = 0.1  # between two calls of on_kept, unless an Association ends
_BACKLOG: Final = 128


class Receiver:
    """The Storage SCP. on_kept is called whenever something new lies in incoming/.

    The sockets listen here: connections wait while the process is started again, and a port that
    is taken is told at once.
    """

    def __init__(self, settings: Settings, on_kept: Callable[[], None] = lambda: None) -> None:
        self._settings, self._on_kept = settings, on_kept
        self._plain: socket.socket | None = None
        self._by_tls: socket.socket | None = None
        self._process: _Process | None = None
        self._stopping = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._supervise, name="receiver", daemon=True)

    def start(self, host: str, port: int | None, tls_port: int | None = None) -> int:
        """Begins to listen; port 0 takes a free one, None none. Raises ConfigError.

        Returns the port; that of TLS where there is no plain one.
        """
        try:
            if port is not None:
                self._plain = _listening("dicom.port", host, port)
            if tls_port is not None:
                assert self._settings.tls is not None
                server_context(*self._settings.tls.paths_of_context())  # raises what is wrong
                self._by_tls = _listening("dicom.tls.port", host, tls_port)
        except ConfigError:
            self._close()
            raise
        self._thread.start()
        if not self._ready.wait(READY_SECONDS):
            self.stop()
            raise ConfigError(
                f"the receiving process was not ready after {READY_SECONDS:g} s; see the log"
            )
        return _port(self._plain) or self.tls_port

    @property
    def tls_port(self) -> int:
        """Where it listens for TLS; 0 where it does not."""
        return _port(self._by_tls)

    @property
    def pid(self) -> int:
        """Of the receiving process."""
        assert self._process is not None
        return self._process.pid

    def stop(self) -> None:
        """Stops listening and aborts what is still associated; does not wait for silent peers."""
        self._stopping.set()
        if self._process is not None:
            self._process.ask_to_stop()
        self._thread.join(STOP_SECONDS)
        if self._thread.is_alive() and self._process is not None:
            self._process.kill()
            self._thread.join(KILL_SECONDS)  # it notes which Associations are lost
        self._close()

    def _close(self) -> None:
        for one in (self._plain, self._by_tls):
            if one is not None:
                one.close()

    def _supervise(self) -> None:
        """One process after the other, until stop. Each is a child of this thread, see process."""
        pause = _FIRST_PAUSE_SECONDS
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                self._run_one()
            except Exception:  # as a lane: the node without its receiver is of no use
                log.exception("the receiving process stumbled and is started again")
            if time.monotonic() - began > _LIVED_SECONDS:
                pause = _FIRST_PAUSE_SECONDS
            self._stopping.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _run_one(self) -> None:
        process = self._process = _Process(self._settings, self._plain, self._by_tls)
        if self._stopping.is_set():
            process.ask_to_stop()
        try:
            process.hear(self._on_kept, self._ready.set)
        finally:
            process.bury()
            self._on_kept()
        if not self._stopping.is_set():
            log.error("the receiving process died", reason=process.cause_of_death())


class _Process:
    """One receiving process."""

    def __init__(
        self, settings: Settings, plain: socket.socket | None, by_tls: socket.socket | None
    ) -> None:
        self._incoming = settings.incoming
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lines, theirs = os.pipe()
        self._held = b""  # a line that is not whole yet
        self._open: dict[str, AssociationRecord] = {}
        inherited = (*map(_descriptor, (plain, by_tls)), theirs, self._wakeup)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "node.dicom.receiver"]
                + [str(one) for one in inherited]
                + [settings.as_json()],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                pass_fds=[one for one in inherited if one != NOTHING],
                env=_environment(),
            )
        except OSError:
            self._close()
            raise
        finally:
            os.close(theirs)

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask_to_stop(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def kill(self) -> None:
        self._process.kill()

    def cause_of_death(self) -> str:
        code = self._process.returncode
        return f"killed by signal {-code}" if code < 0 else f"ended with exit code {code}"

    def hear(self, on_kept: Callable[[], None], on_ready: Callable[[], None]) -> None:
        """Passes on what it says until it is dead.

        In the full flow on_kept is called some times a second, not for each Instance: recording
        many at once leaves the processors and the disk to receiving.
        """
        deaf_until = 0.0
        while True:
            ready = self._wait(deaf_until - time.monotonic())
            if self._wakeup in ready:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._wakeup)
                on_kept()
                deaf_until = time.monotonic() + _FLOW_SECONDS
            if self._lines in ready:
                if not (piece := os.read(self._lines, 65536)):
                    return
                for what in self._whole_lines(piece):
                    self._take_in(what, on_kept, on_ready)

    def _wait(self, deaf_seconds: float) -> set[int]:
        """The descriptors that have something; only lines end it before deaf_seconds are over."""
        poll = select.poll()
        poll.register(self._lines, select.POLLIN)
        if deaf_seconds <= 0:
            poll.register(self._wakeup, select.POLLIN)
        return {one for one, _ in poll.poll(deaf_seconds * 1000 if deaf_seconds > 0 else None)}

    def _whole_lines(self, piece: bytes) -> Iterator[Mapping[str, Any]]:
        *lines, self._held = (self._held + piece).split(b"\n")
        return map(json.loads, lines)

    def _take_in(
        self, what: Mapping[str, Any], on_kept: Callable[[], None], on_ready: Callable[[], None]
    ) -> None:
        if what["kind"] == LOG:
            getattr(log, what["level"])(what["event"], **what["fields"])
        elif what["kind"] == OPENED:
            fields = {k: v for k, v in what.items() if k != "kind"}
            self._open[what["association"]] = AssociationRecord(**fields)
        elif what["kind"] == ENDED:
            self._open.pop(what["association"], None)
            on_kept()
        elif what["kind"] == READY:
            log.info("receiver started", pid=what["pid"], run=what["run"])
            on_ready()

    def bury(self) -> None:
        """Ends it if it lives; says which Associations are lost, and removes their halves."""
        self.kill()
        self._process.wait()
        self.ask_to_stop()
        self._close()
        try:
            clock = Clock(self._incoming)
            for record in self._open.values():
                write_end(self._incoming, clock, record, "lost")
            for half in self._incoming.glob("*.part"):
                half.unlink(missing_ok=True)
        except OSError as error:
            log.error("the end of associations cannot be noted", error=str(error))

    def _close(self) -> None:
        os.close(self._lines)
        os.close(self._wakeup)


def _listening(key: str, host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigError(f"{key}: cannot listen on {host}:{port}: {error}") from error


def _port(listener: socket.socket | None) -> int:
    return 0 if listener is None else int(listener.getsockname()[1])


def _descriptor(listener: socket.socket | None) -> int:
    return NOTHING if listener is None else listener.fileno()


def _environment() -> dict[str, str]:
    """Ours, and where this very package lies."""
    home = str(Path(node.__file__).parents[1])
    paths = [home, *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
