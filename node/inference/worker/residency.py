"""Which models a worker holds: loaded on demand, the least recently used closed for the next.

Knows neither devices nor processes: it is told how to load a model and how much all of them may
hold.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import structlog

from node.core.model import Model, Tell, tell_nobody
from node.core.volume import LabelMap, Volume
from node.inference.out_of_memory import is_out_of_memory

log = structlog.get_logger()

_LOOK_AGAIN_SECONDS = 1.0  # at the memory, while every model is in use


class Resident(Protocol):
    """A Segmenter whose three steps run one by one, and which holds memory until it is closed."""

    @property
    def footprint_bytes(self) -> int:
        """What it holds of its device's memory while it rests, measured."""
        ...

    def warm_up(self) -> None: ...
    def prepare(self, volumes: Sequence[Volume], probabilities: bool = False) -> Any: ...
    def predict(self, prepared: Any, tell: Tell = tell_nobody) -> Any: ...
    def finish(self, predicted: Any) -> LabelMap: ...
    def close(self) -> None: ...


class _Held:
    """A model that is loaded. users: requests that are somewhere between first and last step."""

    def __init__(self, name: str, segmenter: Resident, footprint_bytes: int, users: int) -> None:
        self.name, self.segmenter = name, segmenter
        self.footprint_bytes, self.users = footprint_bytes, users


class Residency:
    """The models that are loaded. One thread loads and acquires; any may release and ask.

    budget_bytes says how much all models may hold, given what they hold now.
    """

    def __init__(
        self, load: Callable[[Model], Resident], budget_bytes: Callable[[int], int]
    ) -> None:
        self._load, self._budget_bytes = load, budget_bytes
        self._held: dict[str, _Held] = {}  # by fingerprint, the least recently used first
        self._footprints: dict[str, int] = {}  # by fingerprint, also of those that were closed
        self._change = threading.Condition()

    @property
    def fingerprints(self) -> frozenset[str]:
        """Of the models that are loaded."""
        return frozenset(tuple(self._held))

    @property
    def held_bytes(self) -> int:
        """What the loaded models hold while they rest."""
        return sum(held.footprint_bytes for held in tuple(self._held.values()))

    @property
    def in_use(self) -> bool:
        """Whether any request is between its first and its last step."""
        return any(held.users for held in tuple(self._held.values()))

    def load_all(self, models: Mapping[str, Model], tell: Callable[[str, float], None]) -> None:
        """Loads and measures each model once; what does not fit beside the others is let go.

        `tell` is told a name and seconds. Raises what loading raises.
        """
        for name, model in models.items():
            begin = time.monotonic()
            if self._load_first(model):
                tell(name, time.monotonic() - begin)

    def acquire(self, model: Model) -> Resident:
        """The model's segmenter, loaded if it has to be; it stays until `release`.

        Waits while the memory is held by models in use. Raises what loading raises.
        """
        with self._change:
            held = self._held.pop(model.fingerprint, None)
            if held is not None:
                held.users += 1
                self._held[model.fingerprint] = held  # last: the most recently used
                return held.segmenter
            self._make_room(model, self._footprints.get(model.fingerprint, 0))
        held = self._add(model, users=1)
        try:
            with self._change:
                self._make_room(model, 0, wait=False)  # now that it is known what it takes
        except BaseException:  # however it ends, nobody will release it
            self.release(model)
            raise
        return held.segmenter

    def release(self, model: Model) -> None:
        """The request is done with the model."""
        with self._change:
            self._held[model.fingerprint].users -= 1
            self._change.notify_all()

    def close_idle(self) -> list[str]:
        """Frees the memory of every model that is not in use; returns their names."""
        with self._change:
            idle = {key: held for key, held in self._held.items() if not held.users}
            for fingerprint in idle:
                self._close(fingerprint)
            return [held.name for held in idle.values()]

    def _load_first(self, model: Model) -> bool:
        """Whether it could be loaded; what it holds is known then, even if it did not stay."""
        try:
            held = self._add(model, users=0)
        except (RuntimeError, MemoryError) as error:
            if not (is_out_of_memory(error) and self._held):
                raise
            log.warning("model is loaded when it is needed", model=model.name, why=str(error))
            return False
        budget = self._budget_bytes(self.held_bytes)
        if self.held_bytes > budget and len(self._held) > 1:
            self._close(model.fingerprint)
            self._log_no_room(model, held.footprint_bytes, budget, "it is loaded when needed")
        elif self.held_bytes > budget:
            self._log_no_room(model, held.footprint_bytes, budget, "it is loaded all the same")
        return True

    def _add(self, model: Model, users: int) -> _Held:
        segmenter = self._warm_with_room(model)
        with self._change:
            # The first measurement counts: at the start nothing else runs.
            footprint = self._footprints.setdefault(model.fingerprint, segmenter.footprint_bytes)
            held = self._held[model.fingerprint] = _Held(model.name, segmenter, footprint, users)
            return held

    def _warm_with_room(self, model: Model) -> Resident:
        """Where memory runs out, every idle model is closed and loading begins again."""
        try:
            return self._warm(model)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or not self.close_idle():
                raise
        return self._warm(model)  # out here: the error holds what was loaded before it

    def _warm(self, model: Model) -> Resident:
        segmenter = self._load(model)
        try:
            segmenter.warm_up()
        except BaseException:  # however it ends, nobody will close it
            segmenter.close()
            raise
        return segmenter

    def _make_room(self, model: Model, needed: int, *, wait: bool = True) -> None:
        """Closes idle models until all of them and `needed` bytes fit, or none is idle."""
        budget = self._budget_bytes(self.held_bytes)
        while self.held_bytes + needed > budget:
            idle = [key for key, held in self._held.items() if not held.users]
            if idle:
                self._close_for(model, idle[0])
            elif not self._held:
                self._log_no_room(model, needed, budget, "it is loaded all the same")
                return
            elif wait:
                self._change.wait(_LOOK_AGAIN_SECONDS)
                budget = self._budget_bytes(self.held_bytes)
            else:
                return

    def _close_for(self, model: Model, fingerprint: str) -> None:
        closed = self._close(fingerprint)
        log.info(
            "model closed to make room",
            model=closed.name,
            footprint_mb=closed.footprint_bytes // 1_000_000,
            for_model=model.name,
            for_footprint_mb=self._footprints.get(model.fingerprint, 0) // 1_000_000,
        )

    def _close(self, fingerprint: str) -> _Held:
        held = self._held.pop(fingerprint)
        held.segmenter.close()
        return held

    def _log_no_room(self, model: Model, footprint: int, budget: int, what_then: str) -> None:
        log.warning(
            "model does not fit",
            model=model.name,
            footprint_mb=footprint // 1_000_000,
            budget_mb=budget // 1_000_000,
            then=what_then,
        )
