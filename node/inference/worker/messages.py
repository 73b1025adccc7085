"""What travels between the node and its worker processes, and the pipe that it travels through.

Importing this loads neither torch nor nnunetv2.
"""

import pickle
import threading
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from node.core.errors import SegnodeError, Temporary
from node.core.volume import LabelMap, Volume
from node.inference.out_of_memory import is_out_of_memory


@dataclass(frozen=True, eq=False)
class Request:
    """To the worker: segment these Volumes, one per channel, with the Model of this name."""

    id: int
    model: str
    volumes: tuple[Volume, ...]
    probabilities: bool = False


@dataclass(frozen=True)
class Cancel:
    """To the worker: nobody waits for this request any more. It is answered all the same."""

    id: int


@dataclass(frozen=True)
class Loaded:
    """One model is built and warm. seconds: how long that took."""

    model: str
    seconds: float


@dataclass(frozen=True)
class Ready:
    """Every model was loaded once; requests are taken."""


@dataclass(frozen=True)
class Progressed:
    """How far a request's prediction is, as in core.model.Progress."""

    id: int
    done: float
    note: str | None


@dataclass(frozen=True, eq=False)
class Probable:
    """The probabilities of one of a request's labels; its answer follows the last of them.

    One by one: a message is held twice while it travels, and no other gets through meanwhile.
    """

    id: int
    label: int
    array: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Answered:
    """A request's labels, without their probabilities."""

    id: int
    label_map: LabelMap


@dataclass(frozen=True)
class Failed:
    """What went wrong with a request; without an id, with the whole process.

    spoiled: the process may be in a bad state and must be replaced.
    """

    id: int | None
    error: Exception
    spoiled: bool


@dataclass(frozen=True)
class Doing:
    """A step that a request is in, and for how long, s."""

    id: int
    step: str
    seconds: float


@dataclass(frozen=True)
class Beat:
    """The worker lives. resident: fingerprints of the models that it holds."""

    doing: tuple[Doing, ...]
    resident: frozenset[str]


@dataclass(frozen=True)
class Logged:
    """A log line of the worker, for the node's log. level: structlog's name of it."""

    level: str
    event: str
    values: Mapping[str, Any]


class Cancelled(Exception):
    """Raised in the worker to end a request that nobody waits for."""


class Channel:
    """One end of the pipe; several threads may send, one receives.

    Volumes travel in it, too: 31 million float32 voxels took 0.4 s, and 0.2 to 0.7 s by shared
    memory, which a killed process would leave behind.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()

    def send(self, message: object) -> None:
        """Raises OSError when the other side is gone.

        Protocol 5 writes arrays straight into the message; Connection.send copies them twice.
        """
        data = pickle.dumps(message, protocol=5)
        with self._sending:
            self._connection.send_bytes(data)

    def receive(self) -> Any:
        """The next message. Raises EOFError or OSError when the other side is gone."""
        return pickle.loads(self._connection.recv_bytes())


def failure(number: int | None, error: Exception) -> Failed:
    """An exception as it may cross to the parent: typed where it is ours, else as its traceback.

    After anything unforeseen the process is spoiled: a thread or the volume may have leaked, and
    a CUDA context may be lost.
    """
    if isinstance(error, SegnodeError):
        return Failed(number, type(error)(str(error)), spoiled=False)
    if isinstance(error, Cancelled):
        return Failed(number, Cancelled(), spoiled=False)
    if is_out_of_memory(error):
        return Failed(number, Temporary(f"the worker ran out of memory: {error}"), spoiled=True)
    text = "".join(traceback.format_exception(error))
    return Failed(number, RuntimeError(f"the worker failed:\n{text}"), spoiled=True)
