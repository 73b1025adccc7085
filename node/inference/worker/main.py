"""The worker process: loads every model, then answers requests until the parent is gone.

This module runs in the child. Importing it loads neither torch nor nnunetv2; `main` does.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import structlog

from node.core.model import Model
from node.core.priority import INFERENCE, give_way
from node.inference import environment
from node.inference.worker.memory import DeviceMemory, memory_of
from node.inference.worker.messages import (
    Beat,
    Cancel,
    Channel,
    Loaded,
    Logged,
    Ready,
    Request,
    failure,
)
from node.inference.worker.residency import Residency, Resident
from node.inference.worker.steps import Steps

_ORPHANED, _THREAD_DIED = 70, 71  # exit codes
_BEAT_SECONDS = 1.0
# The models' part of what is free and what they hold; the rest is for volumes and activations.
_MODELS_PART = (3, 4)


@dataclass(frozen=True)
class Settings:
    """How a worker runs its models.

    memory_bytes: for them at rest; 0: three quarters of what is free and what they hold.
    """

    device: str = "auto"
    threads: int = 0
    backend: str = "auto"
    cache: Path | None = None
    memory_bytes: int = 0


def main(connection: Connection, models: Mapping[str, Model], settings: Settings) -> None:
    """The life of the worker process: load, then answer until the parent hangs up or dies."""
    _arrange_signals()
    _die_with_parent()
    give_way(INFERENCE)
    os.dup2(2, 1)  # stdout belongs to the parent's command; stderr takes what is printed
    channel = Channel(connection)
    _log_through(channel)
    _give_up_when_a_thread_dies(channel)
    try:
        _serve(channel, _start(channel, models, settings))
    except (EOFError, ConnectionError):  # the parent hung up
        pass
    except Exception as error:  # whatever it is, the parent has to learn why
        channel.send(failure(None, error))
    os._exit(0)  # a thread in the middle of its work would make an orderly end a crash


def _start(channel: Channel, models: Mapping[str, Model], settings: Settings) -> Steps:
    environment.prepare(settings.threads)
    memory = memory_of(settings.device)
    residency = Residency(_loader(settings), lambda held: _budget(settings, memory, held))
    residency.load_all(models, lambda name, seconds: channel.send(Loaded(name, seconds)))
    steps = Steps(models, residency, memory, channel.send, lambda: _use_cores(settings.threads))
    steps.start()
    _beat(channel, steps, residency)
    channel.send(Ready())
    return steps


def _use_cores(threads: int) -> None:
    """torch's number of threads belongs to the thread that calls it."""
    import torch

    torch.set_num_threads(environment.cores(threads))


def _loader(settings: Settings) -> Any:
    from node.inference.segmenter import NnunetSegmenter  # torch and nnunetv2: seconds, not before

    def load(model: Model) -> Resident:
        return NnunetSegmenter(
            model, settings.device, settings.threads, settings.backend, settings.cache
        )

    return load


def _budget(settings: Settings, memory: DeviceMemory, held: int) -> int:
    """Bytes that all models may hold at rest. held: what they hold now."""
    part, whole = _MODELS_PART
    return settings.memory_bytes or (memory.free_bytes() + held) * part // whole


def _serve(channel: Channel, steps: Steps) -> None:
    while True:
        message = channel.receive()
        if isinstance(message, Request):
            steps.put(message)
        elif isinstance(message, Cancel):
            steps.cancel(message.id)


def _beat(channel: Channel, steps: Steps, residency: Residency) -> None:
    """Says every second that the process lives, from a thread that does nothing else."""

    def beat() -> None:
        while True:
            try:
                channel.send(Beat(steps.doing(), residency.fingerprints))
            except OSError:  # the parent hung up
                return
            time.sleep(_BEAT_SECONDS)

    threading.Thread(target=beat, name="beat", daemon=True).start()


def _log_through(channel: Channel) -> None:
    """What is logged here appears in the node's log, in its form."""

    def send(logger: object, level: str, event: MutableMapping[str, Any]) -> Any:
        values = {key: _plain(value) for key, value in event.items() if key != "event"}
        channel.send(Logged(level, str(event.get("event")), values))
        raise structlog.DropEvent

    structlog.configure(processors=[structlog.processors.format_exc_info, send])


def _plain(value: object) -> object:
    return value if isinstance(value, str | int | float | None) else repr(value)


def _arrange_signals() -> None:
    """Ctrl-C reaches the whole terminal group; what it means is the parent's decision."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # blocked until here by the parent


def _die_with_parent() -> None:
    """Ends this process when the parent is gone, whatever it was doing and however it went."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "main() runs in a child of multiprocessing"

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(_ORPHANED)

    threading.Thread(target=watch, name="watch parent", daemon=True).start()


def _give_up_when_a_thread_dies(channel: Channel) -> None:
    """Whoever waits for a thread that has died would wait for ever."""

    def give_up(died: threading.ExceptHookArgs) -> None:
        try:
            if isinstance(died.exc_value, Exception):
                channel.send(failure(None, died.exc_value))
        finally:
            os._exit(_THREAD_DIED)

    threading.excepthook = give_up
