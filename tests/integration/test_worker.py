"""The worker process, killed, stopped and starved as machines do it: real processes throughout."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from node.core.errors import Fatal, SeriesRejected, StaleState, Temporary
from node.core.model import Model, Progress
from node.core.volume import LabelMap, Volume
from node.inference.engine import InProcessEngine, WorkerEngine
from node.inference.model import load_model
from node.inference.worker.child import Child
from node.inference.worker.main import Settings
from node.inference.worker.messages import failure
from tests.model_factory import axial_affine, make_model_folder, noise_volume

READY_SECONDS = 120.0  # on a busy machine; 6 s on two quiet cores
HANG_SECONDS = 5.0
SMALL = noise_volume((16, 16, 16), (1.0, 1.0, 1.0))
MEDIUM = noise_volume((48, 48, 48), (1.0, 1.0, 1.0))  # 125 tiles for the model below
LARGE = noise_volume((200, 200, 200), (1.0, 1.0, 1.0))  # half a minute of work, or minutes


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model("m", make_model_folder(tmp_path_factory.mktemp("models") / "m"))


@pytest.fixture(scope="module")
def engine(model: Model) -> Iterator[WorkerEngine]:
    """One engine for the tests below, which leave it fit for the next."""
    engine = WorkerEngine({"m": model}, device="cpu", heartbeat_seconds=HANG_SECONDS)
    engine.start()
    engine.wait_ready(READY_SECONDS)
    yield engine
    engine.stop()


def worker_of(engine: WorkerEngine) -> int:
    (pid,) = engine.pids
    return pid


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


def in_threads(*work: Callable[[], object]) -> list[threading.Thread]:
    threads = [threading.Thread(target=one) for one in work]
    for thread in threads:
        thread.start()
    return threads


def test_errors_of_a_series_come_back_as_they_are_and_the_next_request_is_well(
    engine: WorkerEngine, model: Model
) -> None:
    before = engine.pids
    holed = Volume(np.full_like(SMALL.array, np.nan), SMALL.affine, "1.2.3")
    answers: list[LabelMap] = []
    (other,) = in_threads(lambda: answers.append(engine.segment([MEDIUM], model)))
    with pytest.raises(SeriesRejected, match="not all finite"):
        engine.segment([holed], model)
    other.join(60)
    assert answers[0].array.shape == MEDIUM.array.shape
    assert engine.pids == before


def test_progress_grows_to_the_end_in_the_thread_that_asks(
    engine: WorkerEngine, model: Model
) -> None:
    told: list[Progress] = []
    threads: set[int] = set()

    def tell(progress: Progress) -> None:
        told.append(progress)
        threads.add(threading.get_ident())

    engine.segment([MEDIUM], model, tell)
    done = [progress.done for progress in told]
    assert done == sorted(done)
    assert done[-1] == 1.0
    assert threads == {threading.get_ident()}


def test_what_tell_raises_ends_the_prediction_between_tiles_and_the_worker_stays(
    engine: WorkerEngine, model: Model
) -> None:
    before, told = engine.pids, []

    def tell(progress: Progress) -> None:
        told.append(progress.done)
        if progress.done > 0:
            raise StaleState("the Job was cancelled")

    begin = time.monotonic()
    with pytest.raises(StaleState, match="the Job was cancelled"):
        engine.segment([LARGE], model, tell)
    assert told[-1] < 0.5
    assert time.monotonic() - begin < 10  # preparing is not interrupted
    assert engine.segment([SMALL], model).array.any()
    assert engine.pids == before


def test_a_request_that_waits_can_be_cancelled(engine: WorkerEngine, model: Model) -> None:
    outcomes: list[object] = []
    (other,) = in_threads(lambda: outcomes.append(engine.segment([MEDIUM], model)))

    def tell(progress: Progress) -> None:
        raise StaleState("the Job was cancelled")

    with pytest.raises(StaleState):
        engine.segment([MEDIUM], model, tell)
    other.join(60)
    assert len(outcomes) == 1


def test_ctrl_c_in_the_terminal_does_not_reach_the_work(engine: WorkerEngine, model: Model) -> None:
    os.kill(worker_of(engine), signal.SIGINT)
    assert engine.segment([SMALL], model).array.any()


def test_requests_of_several_threads_are_answered_each_with_its_own_labels(
    engine: WorkerEngine, model: Model
) -> None:
    volumes = [noise_volume((16, 16, 20), (1.0, 1.0, 1.0), seed) for seed in range(4)]
    answers: dict[int, LabelMap] = {}

    def ask(number: int) -> None:
        answers[number] = engine.segment([volumes[number]], model)

    for thread in in_threads(*(partial(ask, number) for number in range(4))):
        thread.join(60)
    alone = InProcessEngine(device="cpu")
    for number, volume in enumerate(volumes):
        expected = alone.segment([volume], model)
        np.testing.assert_array_equal(answers[number].array, expected.array)


def test_a_worker_killed_at_work_is_temporary_and_another_is_started(
    engine: WorkerEngine, model: Model
) -> None:
    killed, errors = worker_of(engine), []

    def ask() -> None:
        try:
            engine.segment([LARGE], model)
        except Temporary as error:
            errors.append(str(error))

    killer = after(signal.SIGKILL, killed)
    asking = in_threads(ask, ask)
    for thread in (killer, *asking):
        thread.join(60)
    reason = f"the worker (pid {killed}) was killed by SIGKILL; out of memory?"
    assert errors == [reason, reason]
    assert is_gone(killed)
    assert worker_of(engine) != killed


def test_a_worker_that_dies_idle_is_replaced_at_once_and_costs_no_request(
    engine: WorkerEngine, model: Model
) -> None:
    engine.wait_ready(READY_SECONDS)
    killed = worker_of(engine)
    os.kill(killed, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while engine.pids in ([killed], []):
        assert time.monotonic() < deadline, "nobody replaces it"
        time.sleep(0.01)
    assert engine.segment([SMALL], model).array.any()


def test_too_little_memory_is_temporary_and_the_next_request_is_well(
    engine: WorkerEngine, model: Model
) -> None:
    before = worker_of(engine)
    petabytes = Volume(SMALL.array, axial_affine((5000.0, 5000.0, 5000.0)), "1.2.3")
    with pytest.raises(Temporary, match="the worker ran out of memory: "):
        engine.segment([petabytes], model)
    assert engine.segment([SMALL], model).array.any()
    assert worker_of(engine) == before


def test_a_bug_crosses_with_its_traceback_and_spoils_the_worker() -> None:
    try:
        axial_affine((1.0, 2.0))  # type: ignore[arg-type]
    except ValueError as bug:
        failed = failure(7, bug)
    assert type(failed.error) is RuntimeError
    assert "in axial_affine" in str(failed.error)
    assert failed.spoiled


def test_a_hung_worker_is_found_by_its_silence_also_while_it_is_being_sent_to(
    engine: WorkerEngine, model: Model
) -> None:
    engine.wait_ready(READY_SECONDS)
    stopped = worker_of(engine)
    os.kill(stopped, signal.SIGSTOP)  # it takes no more than the pipe holds
    begin = time.monotonic()
    with pytest.raises(Temporary, match="said nothing for 5 s and was killed: it hung"):
        engine.segment([LARGE], model)
    assert time.monotonic() - begin < 2 * HANG_SECONDS
    assert is_gone(stopped)
    assert worker_of(engine) != stopped


def test_a_hung_worker_is_found_without_a_request(engine: WorkerEngine) -> None:
    engine.wait_ready(READY_SECONDS)
    stopped = worker_of(engine)
    os.kill(stopped, signal.SIGSTOP)
    deadline = time.monotonic() + 2 * HANG_SECONDS
    while engine.pids in ([stopped], []):
        assert time.monotonic() < deadline, "nobody finds it"
        time.sleep(0.05)
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
    assert engine.pids == []
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
    assert engine.pids == []
    engine.stop()


class Starving(dict[str, Model]):
    """Models that a worker has no memory to load."""

    def items(self) -> Any:
        if multiprocessing.parent_process() is not None:
            raise MemoryError("cannot allocate 2 GiB")
        return super().items()


def test_a_worker_without_memory_to_load_its_models_is_temporary(model: Model) -> None:
    ended = threading.Event()
    child = Child(Starving(m=model), Settings("cpu"), 60.0, 60.0, lambda child: ended.set())
    with pytest.raises(
        Temporary, match=r"cannot load its models: .*out of memory: cannot allocate"
    ):
        child.wait_ready(READY_SECONDS)
    assert ended.wait(10)
    assert not child.alive


def test_a_worker_that_dies_again_and_again_is_started_after_growing_pauses_or_by_a_request(
    model: Model,
) -> None:
    engine = WorkerEngine({"m": model}, device="cpu")
    engine.start()
    pauses = []
    for _ in range(3):
        engine.wait_ready(READY_SECONDS)
        os.kill(killed := worker_of(engine), signal.SIGKILL)
        begin = time.monotonic()
        while engine.pids in ([killed], []):
            assert time.monotonic() - begin < 20, "nobody replaces it"
            time.sleep(0.01)
        pauses.append(time.monotonic() - begin)
    assert pauses[1] >= 1.0
    assert pauses[2] >= 2.0
    engine.wait_ready(READY_SECONDS)
    os.kill(worker_of(engine), signal.SIGKILL)
    while engine.pids:
        time.sleep(0.01)
    begin = time.monotonic()  # of a pause of 4 s
    asking = in_threads(partial(engine.segment, [SMALL], model))
    while not engine.pids:
        assert time.monotonic() - begin < 3
        time.sleep(0.01)
    for thread in asking:
        thread.join(60)
    begin = time.monotonic()
    os.kill(killed := worker_of(engine), signal.SIGKILL)  # it has answered: it was well
    while engine.pids in ([killed], []):
        assert time.monotonic() - begin < 4, "a pause after a single death"
        time.sleep(0.01)
    engine.stop()


def test_a_step_that_takes_too_long_is_given_up_with_its_worker(model: Model) -> None:
    engine = WorkerEngine({"m": model}, device="cpu", timeout_seconds=1.0)
    engine.start()
    try:
        engine.wait_ready(READY_SECONDS)
        with pytest.raises(Temporary, match=r"did not end a request.s step \w+ in 1 s and was"):
            engine.segment([LARGE], model)
    finally:
        engine.stop()


def test_of_two_workers_each_takes_a_request_and_one_may_die_alone(model: Model) -> None:
    engine = WorkerEngine({"m": model}, device="cpu", workers=2)
    engine.start()
    try:
        engine.wait_ready(READY_SECONDS)
        first, second = engine.pids
        errors: list[str] = []
        told = threading.Barrier(3)

        def ask() -> None:
            waited = False

            def tell(progress: Progress) -> None:
                nonlocal waited
                if progress.done > 0 and not waited:
                    waited = True
                    told.wait(60)
                if errors:
                    raise StaleState("enough")

            try:
                engine.segment([LARGE], model, tell)
            except (Temporary, StaleState) as error:
                errors.append(str(error))

        threads = in_threads(ask, ask)
        told.wait(60)  # both networks run
        os.kill(first, signal.SIGKILL)
        for thread in threads:
            thread.join(60)
        assert sorted(errors)[0] == "enough"
        assert f"pid {first}) was killed" in sorted(errors)[1]
        assert second in engine.pids
    finally:
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
    print(engine.pids[0], flush=True)
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
