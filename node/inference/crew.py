"""Threads for work that is many small steps: each runs torch on one core, all together on all."""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")

_START_SECONDS = 60.0  # for all threads to be there


class Crew:
    """As many threads as cores. One parallel region per small step would cost more than the step.

    torch keeps its number of threads per thread, but a new thread starts with the number that was
    set last, anywhere: hence the barrier, and the number put back.
    """

    def __init__(self, threads: int) -> None:
        before = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="crew")
        barrier = threading.Barrier(threads)
        for waiting in [self._pool.submit(_take_one_core, barrier) for _ in range(threads)]:
            waiting.result()
        torch.set_num_threads(before)

    def each(self, work: Callable[[T], None], items: Iterable[T]) -> None:
        """work(item) for every item, in any order. Raises what the first failing one raised."""
        for _ in self._pool.map(work, items):
            pass

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown(cancel_futures=True)


def _take_one_core(barrier: threading.Barrier) -> None:
    torch.set_num_threads(1)
    barrier.wait(_START_SECONDS)
