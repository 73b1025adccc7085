"""The worker process, killed, stopped and starved as machines do it: real processes throughout."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from node.core.errors import Fatal, SeriesRejected, Temporary
from node.core.model import Model
from node.core.volume import Volume
from node.inference.engine import InProcessEngine, WorkerEngine
from node.inference.model import load_model
from node.inference.worker import failure
from tests.model_factory import axial_affine, make_model_folder, noise_volume

READY_SECONDS = 120.0  # on a busy machine; 6 s on two quiet cores
HANG_SECONDS = 5.0
SMALL = noise_volume((16, 16, 16), (1.0, 1.0, 1.0))
LARGE = noise_volume((200, 200, 200), (1.0, 1.0, 1.0))  # minutes of work for the model below


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model("m", make_model_folder(tmp_path_factory.mktemp("models") / "m"))


@pytest.fixture(scope="module")
def engine(model: Model) -> Iterator[WorkerEngine]:
    """One engine for the tests below, which leave it fit for the next."""
    engine = WorkerEngine({"m": model}, device="cpu", timeout_seconds=HANG_SECONDS)
    engine.start()
    engine.wait_ready(READY_SECONDS)
    yield engine
    engine.stop()


def worker_of(engine: WorkerEngine) -> int:
    assert engine.pid is not None
    return engine.pid


def is_gone(pid: int) -> bool:
    """Whether a process has ended; a zombie that nobody reaped has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_until_busy(pid: int, seconds: float = 10.0) -> None:
    """Returns once the process has used half a second of processor time from now on."""

    def used() -> int:
        return sum(
            map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13])
        )

    begin, deadline = used(), time.monotonic() + seconds
    while used() - begin < os.sysconf("SC_CLK_TCK") / 2:
        assert time.monotonic() < deadline, f"process {pid} does no work"
        time.sleep(0.02)


def after(action: int, pid: int) -> threading.Thread:
    """Sends a signal as soon as the process works."""

    def act() -> None:
        wait_until_busy(pid)
        os.kill(pid, action)

    thread = threading.Thread(target=act)
    thread.start()
    return thread


def test_the_worker_answers_as_a_segmenter_in_this_process_does(
    engine: WorkerEngine, model: Model
) -> None:
    ours = InProcessEngine(device="cpu").segment([SMALL], model)
    theirs = engine.segment([SMALL], model)
    np.testing.assert_array_equal(theirs.array, ours.array)
    np.testing.assert_array_equal(theirs.affine, SMALL.affine)
    assert theirs.frame_of_reference_uid == SMALL.frame_of_reference_uid


def test_ready_says_how_long_each_model_took(engine: WorkerEngine) -> None:
    assert 0 < engine.wait_ready(1.0)["m"] < READY_SECONDS


def test_errors_of_the_series_come_back_as_they_are_and_the_worker_stays(
    engine: WorkerEngine, model: Model
) -> None:
    before = engine.pid
    holed = Volume(np.full_like(SMALL.array, np.nan), SMALL.affine, "1.2.3")
    with pytest.raises(SeriesRejected, match="not all finite"):
        engine.segment([holed], model)
    assert engine.pid == before


def test_ctrl_c_in_the_terminal_does_not_reach_the_work(engine: WorkerEngine, model: Model) -> None:
    os.kill(worker_of(engine), signal.SIGINT)
    assert engine.segment([SMALL], model).array.any()


def test_requests_of_several_threads_are_answered_each_with_its_own(
    engine: WorkerEngine, model: Model
) -> None:
    volumes = [noise_volume((16, 16, 16 + size), (1.0, 1.0, 1.0)) for size in range(4)]
    shapes: dict[int, tuple[int, ...]] = {}

    def ask(number: int) -> None:
        shapes[number] = engine.segment([volumes[number]], model).array.shape

    threads = [threading.Thread(target=ask, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert shapes == {number: volume.array.shape for number, volume in enumerate(volumes)}


def test_a_worker_killed_at_work_is_temporary_and_another_is_started(
    engine: WorkerEngine, model: Model
) -> None:
    killed = worker_of(engine)
    killer = after(signal.SIGKILL, killed)
    with pytest.raises(Temporary, match=f"pid {killed}.* was killed by SIGKILL; out of memory"):
        engine.segment([LARGE], model)
    killer.join()
    assert is_gone(killed)
    assert worker_of(engine) != killed


def test_a_worker_that_dies_before_a_request_costs_none(engine: WorkerEngine, model: Model) -> None:
    killed = worker_of(engine)
    os.kill(killed, signal.SIGKILL)
    while engine.pid == killed:
        time.sleep(0.01)
    assert engine.segment([SMALL], model).array.any()


def test_too_little_memory_is_temporary_and_the_worker_is_replaced(
    engine: WorkerEngine, model: Model
) -> None:
    before = worker_of(engine)
    petabytes = Volume(SMALL.array, axial_affine((5000.0, 5000.0, 5000.0)), "1.2.3")
    with pytest.raises(Temporary, match="ran out of memory"):
        engine.segment([petabytes], model)
    assert is_gone(before)


def test_a_bug_crosses_with_its_traceback_and_spoils_the_worker() -> None:
    try:
        axial_affine((1.0, 2.0))  # type: ignore[arg-type]
    except ValueError as bug:
        failed = failure(bug)
    assert type(failed.error) is RuntimeError
    assert "in axial_affine" in str(failed.error)
    assert failed.spoiled


def test_a_hung_worker_is_killed_in_time_also_while_it_is_being_sent_to(
    engine: WorkerEngine, model: Model
) -> None:
    engine.wait_ready(READY_SECONDS)
    stopped = worker_of(engine)
    os.kill(stopped, signal.SIGSTOP)  # it takes no more than the pipe holds
    begin = time.monotonic()
    with pytest.raises(Temporary, match="gave no answer within 5 s and was killed"):
        engine.segment([LARGE], model)
    assert time.monotonic() - begin < HANG_SECONDS + 2
    assert is_gone(stopped)


def test_a_worker_is_stopped_at_once_in_the_middle_of_its_work(
    engine: WorkerEngine, model: Model
) -> None:
    engine.wait_ready(READY_SECONDS)
    pid, raised = worker_of(engine), []

    def work() -> None:
        try:
            engine.segment([LARGE], model)
        except Temporary as error:
            raised.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    wait_until_busy(pid)
    begin = time.monotonic()
    engine.stop()
    assert time.monotonic() - begin < 2
    thread.join(5)
    assert is_gone(pid)
    assert engine.pid is None
    assert raised == [f"the worker (pid {pid}) was stopped"]
    with pytest.raises(Temporary, match="the worker is stopped"):
        engine.segment([SMALL], model)


def test_a_model_that_cannot_be_loaded_is_said_with_the_workers_reason(tmp_path: Path) -> None:
    model = load_model("m", make_model_folder(tmp_path / "m"))
    (tmp_path / "m" / "fold_0" / "checkpoint_final.pth").write_bytes(b"")
    engine = WorkerEngine({"m": model}, device="cpu")
    engine.start()
    with pytest.raises(Fatal, match=r'cannot load its models: model "m": the files in .* changed'):
        engine.wait_ready(READY_SECONDS)
    assert engine.pid is None
    engine.stop()


PARENT = """
import sys
from pathlib import Path

import numpy as np
import structlog

from node.core.volume import Volume
from node.inference.engine import WorkerEngine
from node.inference.model import load_model

structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
if __name__ == "__main__":
    model = load_model("m", Path(sys.argv[1]))
    engine = WorkerEngine({"m": model}, device="cpu")
    engine.start()
    engine.wait_ready(120)
    print(engine.pid, flush=True)
    array = np.random.default_rng(0).random((200, 200, 200), dtype=np.float32)
    engine.segment([Volume(array, np.eye(4), "1.2.3")], model)
"""


def test_the_worker_dies_with_its_parent_in_the_middle_of_a_prediction(
    model: Model, tmp_path: Path
) -> None:
    program = tmp_path / "parent.py"
    program.write_text(PARENT)
    root = Path(__file__).parents[2]
    parent = subprocess.Popen(
        [sys.executable, str(program), str(model.folder)],
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())  # and nothing before it, from neither process
    wait_until_busy(worker)
    parent.kill()
    deadline = time.monotonic() + 2
    while not is_gone(worker):
        assert time.monotonic() < deadline, "the worker lives on without its parent"
        time.sleep(0.01)
    assert parent.stdout.read() == ""
    parent.wait(5)
