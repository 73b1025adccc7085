"""The worker process: loads every model once, then answers one request after another.

This module runs in the child and names what travels between it and its parent. Importing it loads
neither torch nor nnunetv2; `main` does.
"""

import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from node.core.errors import SegnodeError, Temporary
from node.core.model import Model, Segmenter
from node.core.volume import LabelMap, Volume
from node.inference import environment

_ORPHANED, _THREAD_DIED = 70, 71  # exit codes


@dataclass(frozen=True)
class Request:
    """Segment these Volumes, one per channel, with the Model of this name."""

    model: str
    volumes: tuple[Volume, ...]


@dataclass(frozen=True)
class Loaded:
    """One model is built and warm. seconds: how long that took."""

    model: str
    seconds: float


@dataclass(frozen=True)
class Ready:
    """Every model is loaded."""


@dataclass(frozen=True)
class Failed:
    """What went wrong. spoiled: the process may be in a bad state and must be replaced."""

    error: Exception
    spoiled: bool


Answer = Loaded | Ready | Failed | LabelMap


def send(connection: Connection, message: Request | Answer) -> None:
    """Protocol 5 writes arrays straight into the message; Connection.send copies them twice."""
    connection.send_bytes(pickle.dumps(message, protocol=5))


def receive(connection: Connection) -> Any:
    """The next message. Raises EOFError when the other side is gone."""
    return pickle.loads(connection.recv_bytes())


def main(connection: Connection, models: Mapping[str, Model], device: str, threads: int) -> None:
    """The life of the worker process: load, then answer until the parent hangs up or dies."""
    _arrange_signals()
    _die_with_parent()
    os.dup2(2, 1)  # stdout belongs to the parent's command; stderr takes what is printed
    _give_up_when_a_thread_dies(connection)
    try:
        segmenters = _load(connection, models, device, threads)
        send(connection, Ready())
        while True:
            request = receive(connection)
            send(connection, _answer(segmenters[request.model], request.volumes))
    except (EOFError, ConnectionError):  # the parent hung up
        return
    except Exception as error:
        send(connection, failure(error))


def _load(
    connection: Connection, models: Mapping[str, Model], device: str, threads: int
) -> dict[str, Segmenter]:
    environment.prepare(threads)
    from node.inference.segmenter import NnunetSegmenter  # torch and nnunetv2: seconds, not before

    segmenters: dict[str, Segmenter] = {}
    for name, model in models.items():
        begin = time.monotonic()
        segmenter = NnunetSegmenter(model, device, threads)
        segmenter.warm_up()
        segmenters[name] = segmenter
        send(connection, Loaded(name, time.monotonic() - begin))
    return segmenters


def _answer(segmenter: Segmenter, volumes: Sequence[Volume]) -> LabelMap | Failed:
    try:
        return segmenter.segment(volumes)
    except Exception as error:
        return failure(error)


def failure(error: Exception) -> Failed:
    """An exception as it may cross to the parent: typed where it is ours, else as its traceback.

    After anything unforeseen the process is spoiled: nnU-Net leaks a thread and the volume, and a
    CUDA context may be lost.
    """
    if isinstance(error, SegnodeError):
        return Failed(type(error)(str(error)), spoiled=False)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's
        return Failed(Temporary(f"the worker ran out of memory: {error}"), spoiled=True)
    text = "".join(traceback.format_exception(error))
    return Failed(RuntimeError(f"the worker failed:\n{text}"), spoiled=True)


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


def _give_up_when_a_thread_dies(connection: Connection) -> None:
    """nnU-Net's main thread waits for ever for tiles of a producer thread that has died."""

    def give_up(died: threading.ExceptHookArgs) -> None:
        if isinstance(died.exc_value, Exception):
            send(connection, failure(died.exc_value))
        os._exit(_THREAD_DIED)

    threading.excepthook = give_up
