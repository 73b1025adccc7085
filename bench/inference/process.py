"""What is measured runs in processes of its own: one as the node sets it up, one as a user would.

Imports neither torch nor nnunetv2, so that a process is set up before they are.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import ParamSpec, Protocol, TypeVar

from node.inference import environment

_OURS = ("nnUNet_", "OMP_", "KMP_", "MKL_")  # settings that would not be a user's

P = ParamSpec("P")
T = TypeVar("T")


class Call(Protocol):
    """Runs a function in a process that stays; its arguments and its result are pickled."""

    def __call__(self, function: Callable[..., T], *args: object, **kwargs: object) -> T: ...


@contextmanager
def process(*, as_the_node: bool) -> Iterator[Call]:
    """A fresh process that keeps what it has loaded until the block ends."""
    prepare = _as_the_node if as_the_node else _as_a_user
    with ProcessPoolExecutor(1, get_context("spawn"), prepare) as pool:

        def call(function: Callable[..., T], *args: object, **kwargs: object) -> T:
            return pool.submit(function, *args, **kwargs).result()

        yield call


def alone(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The function's result, from a process as the node sets it up that ends with it."""
    with process(as_the_node=True) as call:
        return call(function, *args, **kwargs)


def interleaved(runs: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """The results of every run, by name: one after another, `rounds` times.

    What disturbs the machine for a while then hits all of them.
    """
    results: dict[str, list[T]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            results[name].append(run())
    return results


def users_environment() -> dict[str, str]:
    """The environment without settings for nnU-Net and OpenMP: as a user would run it."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}


def _as_the_node() -> None:
    _as_a_user()
    environment.prepare(threads=0)


def _as_a_user() -> None:
    kept = users_environment()
    os.environ.clear()
    os.environ.update(kept)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nnU-Net prints
