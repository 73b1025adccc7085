"""Several models in little memory: small real ones, each said to hold a hundred bytes."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import structlog
from structlog.testing import capture_logs

from node.core.model import Model
from node.core.volume import LabelMap
from node.inference.model import load_model
from node.inference.segmenter import NnunetSegmenter
from node.inference.worker.residency import Residency
from tests.model_factory import make_model_folder, noise_volume

VOLUME = noise_volume((16, 16, 16), (1.0, 1.0, 1.0))


@pytest.fixture(autouse=True)
def _no_cached_logger() -> None:
    structlog.reset_defaults()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    folder = tmp_path_factory.mktemp("models")
    return {
        name: load_model(name, make_model_folder(folder / name, seed=seed))
        for seed, name in enumerate("abc")
    }


class World:
    """A residency with a budget in bytes, and what it loaded and closed."""

    def __init__(self, budget: int) -> None:
        self.loaded: list[str] = []
        self.closed: list[str] = []
        self.starving = 0  # so many attempts to load end without memory
        self.residency = Residency(self._load, lambda held: budget)

    def _load(self, model: Model) -> NnunetSegmenter:
        if self.starving:
            self.starving -= 1
            raise MemoryError(f"no room for {model.name}")
        world = self

        class Watched(NnunetSegmenter):
            def close(self) -> None:
                world.closed.append(model.name)
                super().close()

        segmenter = Watched(model, "cpu", backend="torch")
        segmenter.footprint_bytes = 100
        self.loaded.append(model.name)
        return segmenter

    @contextmanager
    def using(self, model: Model) -> Iterator[None]:
        self.residency.acquire(model)
        yield
        self.residency.release(model)

    def segment(self, model: Model) -> LabelMap:
        segmenter = self.residency.acquire(model)
        try:
            return segmenter.finish(segmenter.predict(segmenter.prepare([VOLUME])))
        finally:
            self.residency.release(model)


def test_what_fits_is_loaded_once_and_stays(models: dict[str, Model]) -> None:
    world, told = World(300), []
    world.residency.load_all(models, lambda name, seconds: told.append(name))
    for model in [*models.values(), *models.values()]:
        world.segment(model)
    assert world.loaded == told == ["a", "b", "c"]
    assert world.closed == []
    assert world.residency.held_bytes == 300


def test_the_least_recently_used_makes_room_and_comes_back_with_the_same_answer(
    models: dict[str, Model],
) -> None:
    world = World(200)
    a, b, c = models.values()
    before = [world.segment(model).array for model in (a, b)]
    world.segment(a)
    world.segment(c)
    assert world.closed == ["b"]
    after = [world.segment(model).array for model in (a, b)]
    assert world.closed == ["b", "c"]
    np.testing.assert_array_equal(after, before)
    assert world.residency.fingerprints == {a.fingerprint, b.fingerprint}


def test_an_eviction_is_logged_with_both_footprints(models: dict[str, Model]) -> None:
    world = World(100)
    with capture_logs() as lines:
        world.residency.load_all(models, lambda name, seconds: None)
        world.segment(models["b"])
    assert [(line["event"], line["model"]) for line in lines] == [
        ("model does not fit", "b"),
        ("model does not fit", "c"),
        ("model closed to make room", "a"),
    ]
    assert {"footprint_mb", "for_model", "for_footprint_mb"} <= set(lines[-1])


def test_at_the_start_the_first_ones_stay_and_all_are_known_to_load(
    models: dict[str, Model],
) -> None:
    world, told = World(200), []
    world.residency.load_all(models, lambda name, seconds: told.append(name))
    assert told == ["a", "b", "c"]
    assert world.closed == ["c"]


def test_a_model_that_is_in_use_is_waited_for_and_not_closed(models: dict[str, Model]) -> None:
    world = World(100)
    a, b, _ = models.values()
    world.residency.load_all({"a": a, "b": b}, lambda name, seconds: None)
    world.closed.clear()
    world.residency.acquire(a)
    other = threading.Thread(target=world.segment, args=[b])
    other.start()
    time.sleep(0.2)
    assert world.loaded == ["a", "b"]  # both by load_all: b is not loaded again yet
    assert world.closed == []
    world.residency.release(a)
    other.join(20)
    assert world.loaded == ["a", "b", "b"]
    assert world.closed == ["a"]


def test_a_model_that_does_not_fit_alone_is_loaded_all_the_same(models: dict[str, Model]) -> None:
    world = World(50)
    with capture_logs() as lines:
        world.residency.load_all({"a": models["a"]}, lambda name, seconds: None)
        assert world.segment(models["b"]).array.any()
        assert world.segment(models["a"]).array.any()
    assert "model does not fit" in [line["event"] for line in lines]
    assert world.residency.fingerprints == {models["a"].fingerprint}


def test_without_memory_to_load_one_the_idle_ones_are_closed_and_it_is_tried_again(
    models: dict[str, Model],
) -> None:
    world = World(1000)
    a, b, c = models.values()
    world.segment(a)
    with world.using(b):
        world.starving = 1
        assert world.segment(c).array.any()
    assert world.closed == ["a"]


def test_without_memory_and_nothing_to_close_it_is_said(models: dict[str, Model]) -> None:
    world = World(1000)
    world.starving = 1
    with pytest.raises(MemoryError, match="no room for a"):
        world.residency.acquire(models["a"])
    assert world.segment(models["a"]).array.any()


def test_the_footprint_is_measured(models: dict[str, Model], tmp_path: Path) -> None:
    features = (64, 128, 256)  # some 20 MB of weights
    large = load_model("large", make_model_folder(tmp_path / "large", features=features))
    world = Residency(lambda model: NnunetSegmenter(model, "cpu", backend="torch"), lambda held: 0)
    world.acquire(large)
    assert world.held_bytes > 5_000_000
