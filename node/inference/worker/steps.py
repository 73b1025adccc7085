"""The three steps of a prediction, each in a thread of its own, with room for one case between.

While the network of one case runs, the next is prepared and the last is exported.
"""

import gc
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from node.core.errors import Temporary
from node.core.model import Model, Progress
from node.core.volume import LabelMap
from node.inference.out_of_memory import is_out_of_memory
from node.inference.worker.memory import DeviceMemory, HostMemory
from node.inference.worker.messages import (
    Answered,
    Cancelled,
    Doing,
    Failed,
    Probable,
    Progressed,
    Request,
    failure,
)
from node.inference.worker.residency import Residency, Resident

_MOST_WAITING = 64  # requests; the node has as many as its lanes, far fewer
_TELL_SECONDS = 0.2

Report = Callable[[Progressed | Probable | Answered | Failed], None]


class _Case:
    """One request on its way. value: what the last step made of it, for the next one."""

    def __init__(self, request: Request, model: Model) -> None:
        self.id, self.model = request.id, model
        self.value: Any = request.volumes
        self.probabilities = request.probabilities
        self.segmenter: Resident | None = None
        self.cancelled = threading.Event()
        self.given_up = False
        self.step: str | None = None
        self.since = 0.0  # when the step began; monotonic
        self.told_at = 0.0

    def enter(self, step: str | None) -> None:
        self.since = time.monotonic()  # first: a beat must not see this step with an old time
        self.step = step

    def take_value(self) -> Any:
        """The value, which is then held by the caller only: volumes are large."""
        value, self.value = self.value, None
        return value

    def refuse_if_cancelled(self) -> None:
        if self.cancelled.is_set():
            raise Cancelled


class Steps:
    """Takes requests while others run; tells `report` how far each is, and its answer."""

    def __init__(
        self,
        models: Mapping[str, Model],
        residency: Residency,
        memory: DeviceMemory,
        report: Report,
        on_thread_start: Callable[[], None] = lambda: None,
    ) -> None:
        self._models, self._residency, self._memory = models, residency, memory
        self._report, self._on_thread_start = report, on_thread_start
        self._cases: dict[int, _Case] = {}
        self._guard = threading.Lock()  # of the moment between two steps
        self._waiting: queue.Queue[_Case] = queue.Queue(_MOST_WAITING)
        self._prepared: queue.Queue[_Case] = queue.Queue(1)
        self._predicted: queue.Queue[_Case] = queue.Queue(1)

    def start(self) -> None:
        """The threads end with the process."""
        for name, work, take, give in (
            ("prepare", self._prepare, self._waiting, self._prepared),
            ("predict", self._predict, self._prepared, self._predicted),
            ("finish", self._finish, self._predicted, None),
        ):
            arguments = (name, work, take, give)
            threading.Thread(target=self._run, name=name, args=arguments, daemon=True).start()

    def put(self, request: Request) -> None:
        """Begins with a request as soon as the thread that prepares is free."""
        case = _Case(request, self._models[request.model])
        self._cases[case.id] = case
        try:
            self._waiting.put_nowait(case)
        except queue.Full:
            del self._cases[case.id]
            busy = Temporary(f"the worker has {_MOST_WAITING} requests to answer already")
            self._report(Failed(case.id, busy, spoiled=False))

    def cancel(self, number: int) -> None:
        """Ends a request between two tiles, or at once where it waits; not one that is answered."""
        case = self._cases.get(number)
        if case is None:
            return
        case.cancelled.set()
        with self._guard:
            case.given_up = case.step is None
        if case.given_up:
            self._fail(case, Cancelled())

    def doing(self) -> tuple[Doing, ...]:
        """The steps that are under way."""
        now = time.monotonic()
        cases = tuple(self._cases.values())
        return tuple(Doing(c.id, c.step, now - c.since) for c in cases if c.step is not None)

    def _run(
        self,
        step: str,
        work: Callable[[_Case], None],
        take: queue.Queue[_Case],
        give: queue.Queue[_Case] | None,
    ) -> None:
        self._on_thread_start()
        while True:
            case = take.get()
            if self._done(case, step, work) and give is not None:
                give.put(case)
            del case  # and with it what the last step made

    def _done(self, case: _Case, step: str, work: Callable[[_Case], None]) -> bool:
        """Whether the step was done; if not, the request is answered with the reason."""
        with self._guard:
            if case.given_up:  # answered already, while it waited
                return False
            case.enter(step)
        try:
            case.refuse_if_cancelled()
            work(case)
        except Exception as error:  # torch and its drivers raise anything; each request is answered
            self._fail(case, error)
            return False
        finally:
            case.enter(None)
        return True

    def _prepare(self, case: _Case) -> None:
        case.segmenter = self._residency.acquire(case.model)
        case.value = case.segmenter.prepare(case.take_value(), case.probabilities)

    def _predict(self, case: _Case) -> None:
        def tell(progress: Progress) -> None:
            case.refuse_if_cancelled()
            self._tell(case, progress)

        assert case.segmenter is not None
        case.value = case.segmenter.predict(case.take_value(), tell)

    def _finish(self, case: _Case) -> None:
        assert case.segmenter is not None
        label_map = case.segmenter.finish(case.take_value())
        self._leave(case)
        self._answer(case.id, label_map)
        if case.probabilities:
            del label_map
            HostMemory().give_back()  # or they would stay with a process that seldom needs as much

    def _answer(self, number: int, label_map: LabelMap) -> None:
        for label, array in (label_map.probabilities or {}).items():
            self._report(Probable(number, label, array))
        self._report(Answered(number, replace(label_map, probabilities=None)))

    def _tell(self, case: _Case, progress: Progress) -> None:
        """Five times a second are enough for the eye; notes and the end are never left out."""
        now = time.monotonic()
        if progress.note or progress.done >= 1.0 or now - case.told_at >= _TELL_SECONDS:
            case.told_at = now
            self._report(Progressed(case.id, progress.done, progress.note))

    def _fail(self, case: _Case, error: Exception) -> None:
        failed = failure(case.id, error)
        if is_out_of_memory(error):
            error.__traceback__ = error.__cause__ = error.__context__ = None  # they hold arrays
            failed = self._without_memory(case, str(error))
        else:
            self._leave(case)
        self._report(failed)

    def _without_memory(self, case: _Case, reason: str) -> Failed:
        """Frees what can be freed for the next attempt; spoiled where that was not all."""
        closed = self._residency.close_idle()  # before this model is idle: it is needed again
        self._leave(case)
        gc.collect()
        self._memory.give_back()
        leaked = not self._residency.in_use and self._memory.leaked(self._residency.held_bytes)
        freed = f"; closed for the next attempt: {', '.join(closed)}" if closed else ""
        error = Temporary(f"the worker ran out of memory: {reason}{freed}")
        return Failed(case.id, error, spoiled=leaked)

    def _leave(self, case: _Case) -> None:
        case.value = None
        self._cases.pop(case.id, None)
        if case.segmenter is not None:
            case.segmenter = None
            self._residency.release(case.model)
