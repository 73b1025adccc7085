"""Three steps in three threads, with the double at the Segmenter seam: the order of events."""

import queue
import threading
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from node.core.errors import SeriesRejected, Temporary
from node.core.model import Model, Progress, Tell, tell_nobody
from node.core.volume import LabelMap, Volume
from node.inference.worker.memory import HostMemory
from node.inference.worker.messages import (
    Answered,
    Cancelled,
    Failed,
    Probable,
    Progressed,
    Request,
)
from node.inference.worker.residency import Residency
from node.inference.worker.steps import Steps
from tests.made_up import made_up_model
from tests.model_factory import noise_volume

LONGEST = 20.0  # s; nothing here takes more than moments
MODELS = {name: made_up_model(name) for name in ("m", "other")}


class Stepped:
    """A Segmenter whose network runs until it is let go, and which tells what it does."""

    footprint_bytes = 100

    def __init__(self, events: "queue.Queue[str]") -> None:
        self.events, self.go_on = events, threading.Event()
        self.raising: Exception | None = None
        self.tells: tuple[Progress, ...] = (Progress(0.0), Progress(1.0))
        self.probabilities: Mapping[int, NDArray[np.uint8]] | None = None
        self.closed = False

    def warm_up(self) -> None: ...

    def prepare(self, volumes: Sequence[Volume], probabilities: bool = False) -> Volume:
        self.events.put(f"prepared {volumes[0].frame_of_reference_uid}")
        return volumes[0]

    def predict(self, prepared: Volume, tell: Tell = tell_nobody) -> Volume:
        self.events.put(f"predict {prepared.frame_of_reference_uid}")
        assert self.go_on.wait(LONGEST)
        self.go_on.clear()
        for progress in self.tells:
            tell(progress)
        if self.raising is not None:
            raise self.raising
        return prepared

    def finish(self, predicted: Volume) -> LabelMap:
        self.events.put(f"finish {predicted.frame_of_reference_uid}")
        return LabelMap(
            np.zeros(predicted.array.shape, np.uint8),
            predicted.affine,
            predicted.frame_of_reference_uid,
            probabilities=self.probabilities,
        )

    def close(self) -> None:
        self.closed = True


class World:
    def __init__(self) -> None:
        self.events: queue.Queue[str] = queue.Queue()
        self.reports: queue.Queue[Progressed | Probable | Answered | Failed] = queue.Queue()
        self.segmenters: dict[str, Stepped] = {}
        residency = Residency(self._load, lambda held: 1000)
        residency.load_all(MODELS, lambda name, seconds: None)
        self.residency = residency
        self.steps = Steps(MODELS, residency, HostMemory(), self.reports.put)
        self.steps.start()

    def _load(self, model: Model) -> Stepped:
        self.segmenters[model.name] = Stepped(self.events)
        return self.segmenters[model.name]

    @property
    def segmenter(self) -> Stepped:
        return self.segmenters["m"]

    def ask(self, number: int) -> None:
        volume = noise_volume((2, 2, 2), (1.0, 1.0, 1.0))
        volume = Volume(volume.array, volume.affine, str(number))
        self.steps.put(Request(number, "m", (volume,)))

    def expect(self, *events: str) -> None:
        """The next ones, in any order."""
        assert {self.events.get(timeout=LONGEST) for _ in events} == set(events)

    def answer(self) -> Answered | Failed:
        """The next answer; progress is passed over."""
        while isinstance(report := self.reports.get(timeout=LONGEST), Progressed | Probable):
            pass
        return report


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.segmenter.go_on.set()


def test_the_next_is_prepared_and_the_last_exported_while_the_network_runs(world: World) -> None:
    world.ask(1)
    world.expect("prepared 1", "predict 1")
    world.ask(2)
    world.expect("prepared 2")  # the network of 1 waits to be let go
    world.segmenter.go_on.set()
    world.expect("finish 1", "predict 2")
    answer = world.answer()  # the network of 2 waits to be let go
    assert isinstance(answer, Answered)
    assert (answer.id, answer.label_map.frame_of_reference_uid) == (1, "1")
    world.segmenter.go_on.set()
    answer = world.answer()
    assert isinstance(answer, Answered)
    assert (answer.id, answer.label_map.frame_of_reference_uid) == (2, "2")


def test_no_more_than_one_case_is_prepared_ahead(world: World) -> None:
    for number in (1, 2, 3, 4):
        world.ask(number)
    world.expect("prepared 1", "predict 1", "prepared 2", "prepared 3")
    with pytest.raises(queue.Empty):  # 2 lies between the threads, 3 waits for its place
        world.events.get(timeout=0.2)


def test_a_cancelled_case_ends_between_two_tiles(world: World) -> None:
    world.ask(1)
    world.expect("prepared 1", "predict 1")
    world.steps.cancel(1)
    world.segmenter.go_on.set()
    answer = world.answer()
    assert isinstance(answer, Failed)
    assert (answer.id, answer.spoiled) == (1, False)
    assert isinstance(answer.error, Cancelled)
    assert not world.residency.in_use


def test_a_cancelled_case_that_waits_never_begins(world: World) -> None:
    world.ask(1)
    world.ask(2)
    world.expect("prepared 1", "predict 1", "prepared 2")
    world.steps.cancel(2)
    world.segmenter.go_on.set()
    world.expect("finish 1")
    answers = {answer.id: answer for answer in (world.answer(), world.answer())}
    assert isinstance(answers[2], Failed)
    assert isinstance(answers[1], Answered)
    assert world.events.empty()
    world.steps.cancel(2)  # too late: it is no longer there


def test_a_cancelled_case_that_waits_is_answered_while_the_one_before_it_runs(
    world: World,
) -> None:
    for number in (1, 2, 3, 4, 5):
        world.ask(number)
    world.expect("prepared 1", "predict 1", "prepared 2", "prepared 3")
    for number in (2, 5):  # one is prepared, the other has not begun; the network runs for 1
        world.steps.cancel(number)
        answer = world.answer()
        assert isinstance(answer, Failed)
        assert (answer.id, answer.spoiled) == (number, False)
        assert isinstance(answer.error, Cancelled)
    assert [doing.id for doing in world.steps.doing() if doing.step == "predict"] == [1]
    for number in (1, 3, 4):
        world.segmenter.go_on.set()
        answer = world.answer()
        assert isinstance(answer, Answered)
        assert answer.id == number
    left = set(iter(lambda: world.events.get() if world.events.qsize() else None, None))
    assert left == {"finish 1", "predict 3", "finish 3", "prepared 4", "predict 4", "finish 4"}
    assert not world.residency.in_use


def test_an_error_belongs_to_its_request_and_the_next_is_well(world: World) -> None:
    world.segmenter.raising = SeriesRejected("no voxels")
    world.ask(1)
    world.ask(2)
    world.segmenter.go_on.set()
    answer = world.answer()
    assert isinstance(answer, Failed)
    assert (answer.id, str(answer.error), answer.spoiled) == (1, "no voxels", False)
    world.segmenter.raising = None
    world.segmenter.go_on.set()
    assert isinstance(world.answer(), Answered)


def test_an_unforeseen_error_spoils_the_process(world: World) -> None:
    world.segmenter.raising = ZeroDivisionError("oops")
    world.segmenter.go_on.set()
    world.ask(1)
    answer = world.answer()
    assert isinstance(answer, Failed)
    assert answer.spoiled
    assert "ZeroDivisionError: oops" in str(answer.error)


def test_probabilities_come_label_by_label_before_the_answer_that_has_none(world: World) -> None:
    found = {label: np.full((2, 2, 2), label, np.uint8) for label in (1, 2, 5)}
    world.segmenter.probabilities = found
    world.segmenter.tells = ()
    world.segmenter.go_on.set()
    world.ask(1)
    told = [world.reports.get(timeout=LONGEST) for _ in range(4)]
    assert [(one.label, one.array.max()) for one in told if isinstance(one, Probable)] == [
        (label, label) for label in found
    ]
    assert isinstance(told[-1], Answered)
    assert told[-1].label_map.probabilities is None


def test_progress_is_told_seldom_but_every_note_and_the_end(world: World) -> None:
    tiles = [Progress(tile / 1000) for tile in range(1000)]
    notes = [Progress(0.5, "tried again"), Progress(0.5, "and again")]
    world.segmenter.tells = (*tiles, *notes, Progress(1.0))
    world.segmenter.go_on.set()
    world.ask(1)
    told = []
    while isinstance(report := world.reports.get(timeout=LONGEST), Progressed):
        told.append(report)
    assert [one.note for one in told if one.note] == ["tried again", "and again"]
    assert told[-1].done == 1.0
    assert len(told) < 20


def test_without_memory_the_other_models_are_closed_and_time_may_help(world: World) -> None:
    world.segmenter.raising = MemoryError("2 GiB")
    world.segmenter.go_on.set()
    world.ask(1)
    answer = world.answer()
    assert isinstance(answer, Failed)
    assert isinstance(answer.error, Temporary)
    assert "ran out of memory: 2 GiB; closed for the next attempt: other" in str(answer.error)
    assert not answer.spoiled
    assert world.segmenters["other"].closed
    assert not world.segmenters["m"].closed


def test_what_is_under_way_can_be_asked(world: World) -> None:
    assert world.steps.doing() == ()
    world.ask(1)
    world.expect("prepared 1", "predict 1")
    (doing,) = world.steps.doing()
    assert (doing.id, doing.step) == (1, "predict")
    assert 0 <= doing.seconds < LONGEST
