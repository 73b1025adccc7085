"""What the predictor does when memory runs out, when it is told to stop, when a network fails."""

from collections.abc import Generator, Iterable
from pathlib import Path

import pytest
import torch

from node.core.model import Profile, Progress, tell_nobody
from node.inference.backends.torch_network import TorchNetwork
from node.inference.model import load_model
from node.inference.network import build_network
from node.inference.plans import Plan, read_plan
from node.inference.predictor import Predictor, ways
from node.inference.preprocess import Case, preprocess
from node.inference.segmenter import NnunetSegmenter
from tests.model_factory import make_model_folder, noise_volume

GPU, CPU = torch.device("cuda", 1), torch.device("cpu")
VOLUME = noise_volume((16, 24, 40), (1.0, 1.0, 1.0))


class Tight:
    """A network that has memory for so many patches at a time, or fails in another way."""

    device = CPU

    def __init__(self, room: int, error: Exception | None = None) -> None:
        self._room = room
        self._error = error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        self.batches: list[int] = []

    def run(self, patches: Iterable[torch.Tensor], batch: int) -> Generator[torch.Tensor]:
        self.batches.append(batch)
        for number, patch in enumerate(patches):
            if batch > self._room and number == 1:
                raise self._error
            yield torch.stack([patch[0], -patch[0], patch[0] * 0])

    def on_cpu(self) -> "Tight":
        return self

    def close(self) -> None: ...


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    folder = make_model_folder(tmp_path_factory.mktemp("models") / "m")
    return read_plan(folder, "3d_fullres")


@pytest.fixture
def case(plan: Plan) -> Case:
    return preprocess([VOLUME.array], (1.0, 1.0, 1.0), plan)


def test_out_of_memory_is_answered_with_fewer_tiles_and_said_and_forgotten(
    plan: Plan, case: Case
) -> None:
    network, told = Tight(room=1), list[Progress]()
    predictor = Predictor(plan, [network], None, Profile.EXACT, batch=4)
    found = predictor.logits(case, told.append)
    wanted = Predictor(plan, [Tight(room=9)], None, Profile.EXACT).logits(case, tell_nobody)
    assert torch.equal(found, wanted)
    (note,) = [progress.note for progress in told if progress.note]
    assert note == (
        "out of memory with 4 tiles at a time, logits on the CPU; "
        "tried again with 1 tiles at a time, logits on the CPU"
    )
    assert told[-1].done == 1.0
    predictor.logits(case, tell_nobody)
    assert network.batches == [4, 1, 4, 1]  # the next case begins as usual


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    ],
)
def test_where_even_the_last_way_has_no_memory_that_is_the_error(
    error: Exception, plan: Plan, case: Case
) -> None:
    with pytest.raises(type(error)) as raised:
        Predictor(plan, [Tight(0, error)], None, Profile.EXACT, batch=4).logits(case, tell_nobody)
    assert raised.value is error


def test_another_error_is_not_taken_for_a_lack_of_memory(plan: Plan, case: Case) -> None:
    network = Tight(room=1, error=RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"))
    with pytest.raises(RuntimeError, match="EXECUTION_FAILED"):
        Predictor(plan, [network], None, Profile.EXACT, batch=4).logits(case, tell_nobody)
    assert network.batches == [4]


def test_a_gpu_gives_up_tiles_first_then_the_logits_then_itself() -> None:
    found = [str(way) for way in ways(GPU, 4)]
    assert found == [
        "4 tiles at a time, logits on the GPU",
        "1 tiles at a time, logits on the GPU",
        "1 tiles at a time, logits on the CPU",
        "the network on the CPU",
    ]
    assert [way.results for way in ways(GPU, 1)] == [GPU, CPU, CPU]
    assert [str(way) for way in ways(CPU, 1)] == ["1 tiles at a time, logits on the CPU"]


def test_progress_grows_to_one_over_all_folds(plan: Plan, case: Case) -> None:
    told: list[float] = []
    predictor = Predictor(plan, [Tight(9), Tight(9)], None, Profile.EXACT)
    predictor.logits(case, lambda progress: told.append(progress.done))
    assert told == sorted(told)
    assert (len(told), told[-1]) == (2 * 8, 1.0)


@pytest.mark.parametrize("backend", ["openvino", "torch"])
def test_who_is_told_may_end_the_prediction_between_tiles(backend: str, tmp_path: Path) -> None:
    segmenter = NnunetSegmenter(
        load_model("m", make_model_folder(tmp_path / "m", mirrors=(0,)), "native"),
        "cpu",
        backend=backend,
    )
    before = segmenter.segment([VOLUME]).array
    told: list[float] = []

    def stop_at_the_third(progress: Progress) -> None:
        told.append(progress.done)
        if len(told) == 3:
            raise InterruptedError("enough")

    with pytest.raises(InterruptedError, match="enough"):
        segmenter.segment([VOLUME], stop_at_the_third)
    assert len(told) == 3
    assert (segmenter.segment([VOLUME]).array == before).all()


def test_batches_change_nothing(tmp_path: Path) -> None:
    plan = read_plan(make_model_folder(tmp_path / "m"), "3d_fullres")
    network = TorchNetwork(build_network(plan.architecture, 1, 3, tmp_path), CPU)
    patches = [torch.rand(1, 16, 16, 16) for _ in range(5)]
    one = [found.clone() for found in network.run(iter(patches), 1)]
    two = [found.clone() for found in network.run(iter(patches), 2)]
    assert len(one) == len(two) == 5
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b)


def test_the_copy_on_the_cpu_answers_the_same_and_lives_apart(tmp_path: Path) -> None:
    plan = read_plan(make_model_folder(tmp_path / "m"), "3d_fullres")
    buffers = torch.nn.BatchNorm3d(3)
    module = torch.nn.Sequential(build_network(plan.architecture, 1, 3, tmp_path), buffers)
    buffers.running_mean = torch.tensor([1.0, -2.0, 3.0])
    network = TorchNetwork(module, CPU)
    patch = torch.rand(1, 16, 16, 16)
    (before,) = [found.clone() for found in network.run([patch], 1)]
    copied = network.on_cpu()
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            tensor.zero_()
    assert not next(network.run([patch], 1)).any()
    network.close()
    (after,) = [found.clone() for found in copied.run([patch], 1)]
    assert torch.equal(after, before)
    assert (copied.device, copied.on_cpu() is copied) == (CPU, False)
