"""Our predictor in this process: a volume, many volumes, the bare network, the export alone."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from bench.inference import cases, ct, memory
from bench.inference.run import Run
from node.core.model import Profile
from node.core.volume import NATIVE, LabelMap, Volume
from node.inference.backends import Network, openvino_network
from node.inference.backends.torch_network import TorchNetwork
from node.inference.crew import Crew
from node.inference.environment import cores
from node.inference.export import export
from node.inference.folder import checkpoint_path
from node.inference.footprint import keep_freed_memory
from node.inference.model import load_model
from node.inference.network import build_network, load_weights, read_checkpoint
from node.inference.plans import SPLINE, Heads, Plan, Rule, read_plan
from node.inference.preprocess import Case
from node.inference.resampling import resampling
from node.inference.segmenter import NnunetSegmenter

A = TypeVar("A")
B = TypeVar("B")

SETTLED = 20  # cases, after which memory should not grow
_IN_FLIGHT = 4  # cases that are in one of the three steps or between two


@dataclass(frozen=True, eq=False)
class Sustained(Run):
    """Many cases in a row: the wall clock, and what the process held, bytes."""

    resident_when_settled: int = 0
    resident_at_the_end: int = 0

    @property
    def growth(self) -> float:
        """Of the memory from the settled case to the last, as a fraction."""
        return self.resident_at_the_end / self.resident_when_settled - 1


@dataclass(frozen=True)
class ExportCase:
    """Logits on a coarse grid and the grid of their labels; (slice, row, column), mm."""

    heads: int
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    network_mm: float

    @property
    def network_shape(self) -> tuple[int, ...]:
        """As nnU-Net rounds it."""
        pairs = zip(self.shape, self.spacing_mm, strict=True)
        return tuple(round(n * mm / self.network_mm) for n, mm in pairs)


@dataclass(frozen=True)
class Exported:
    """extra: peak memory beyond what was held before, the logits included there; bytes."""

    seconds: float
    extra: int
    labels: int


def run(model: Path, folder: Path, number: int, backend: str, profile: Profile) -> Run:
    """One of the folder's volumes, step by step. The first run is not warm."""
    segmenter, volume = _segmenter(model, backend, profile), cases.volumes(folder)[number]
    began = time.monotonic()
    prepared = segmenter.prepare([volume])
    to_predict = time.monotonic()
    predicted = segmenter.predict(prepared)
    to_finish = time.monotonic()
    label_map = segmenter.finish(predicted)
    ended = time.monotonic()
    return Run(ended - began, to_predict - began, ended - to_finish, label_map.array)


def sustained(model: Path, folder: Path, count: int, backend: str, profile: Profile) -> Sustained:
    """`count` volumes, the folder's over and over, the three steps side by side in threads."""
    segmenter, available = _segmenter(model, backend, profile), cases.volumes(folder)
    resident = []
    began = time.monotonic()
    for _ in _pipeline(segmenter, (available[n % len(available)] for n in range(count))):
        resident.append(memory.resident())
    seconds = time.monotonic() - began
    return Sustained(
        seconds,
        resident_when_settled=resident[min(SETTLED, count) - 1],
        resident_at_the_end=resident[-1],
    )


def bare_network(model: Path, backend: str, tiles: int) -> Run:
    """Only the network, on as many patches, as many of them at once as a prediction runs."""
    network, plan = _network(model, backend)
    noise = torch.randn(plan.input_channels, *plan.patch_size)
    seconds = 0.0
    for patches in (1, tiles):  # the first is slow once
        began = time.monotonic()
        for _ in network.run((noise for _ in range(patches)), batch=1):
            pass
        seconds = time.monotonic() - began
    return Run(seconds)


def exported(case: ExportCase) -> Exported:
    """The export alone, in this process, which should do nothing else."""
    logits = ct.logits(case.heads, case.network_shape)
    keep_freed_memory()  # as the segmenter does; only now: what made the logits is given back
    small = replace(case, shape=(8, 16, 16))
    export_alone(ct.logits(small.heads, small.network_shape), small)  # what is slow only once
    held = memory.resident()
    memory.forget_peak()
    began = time.monotonic()
    labels = export_alone(logits, case)
    seconds = time.monotonic() - began
    return Exported(seconds, memory.peak() - held, len(np.unique(labels)))


def export_alone(logits: torch.Tensor, case: ExportCase) -> NDArray[np.uint8]:
    """Labels (slice, row, column) on the case's grid from half logits (head, z, y, x)."""
    coarse_mm, rule = (case.network_mm,) * 3, Rule(SPLINE, order=1)
    to_source = resampling(rule, case.network_shape, case.shape, coarse_mm, case.spacing_mm)
    everything = (slice(None), slice(None), slice(None))
    way_back = Case(torch.empty(0), case.shape, everything, to_source, air=None)
    heads = Heads(case.heads, tuple(range(1, case.heads)), None)
    labels: NDArray[np.uint8] = export(logits, way_back, rule, heads, _crew()).numpy()
    return labels


def _pipeline(segmenter: NnunetSegmenter, volumes: Iterator[Volume]) -> Iterator[LabelMap]:
    """Each volume's labels in their order: prepared, predicted and finished in three threads."""
    with (
        ThreadPoolExecutor(1) as first,
        ThreadPoolExecutor(1) as second,
        ThreadPoolExecutor(1) as third,
    ):
        under_way: list[Future[LabelMap]] = []
        for volume in volumes:
            prepared = first.submit(segmenter.prepare, [volume])
            predicted = second.submit(_then, segmenter.predict, prepared)
            under_way.append(third.submit(_then, segmenter.finish, predicted))
            if len(under_way) == _IN_FLIGHT:
                yield under_way.pop(0).result()
        for future in under_way:
            yield future.result()


def _then(step: Callable[[A], B], before: Future[A]) -> B:
    return step(before.result())


@cache
def _crew() -> Crew:
    return Crew(cores(0))


@cache
def _network(folder: Path, backend: str) -> tuple[Network, Plan]:
    """The model's first fold as the segmenter runs it, but nothing around it."""
    model = load_model("bench", folder, NATIVE)
    plan = read_plan(folder, model.configuration)
    path = checkpoint_path(folder, model.folds[0], model.checkpoint_name)

    def build() -> torch.nn.Module:
        network = build_network(plan.architecture, plan.input_channels, plan.heads.count, folder)
        load_weights(network, read_checkpoint(path), path)
        return network

    if backend == "torch":
        return TorchNetwork(build(), torch.device("cpu")), plan
    shape = (plan.input_channels, *plan.patch_size)
    return openvino_network.load(build, shape, cores(0), None, model.fingerprint), plan


@cache
def _segmenter(model: Path, backend: str, profile: Profile) -> NnunetSegmenter:
    return NnunetSegmenter(load_model("bench", model, NATIVE, profile), "cpu", backend=backend)
