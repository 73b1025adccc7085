"""What one run of anything gave, and how several read in a table."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Run:
    """Seconds from the volume in memory to the labels, and of these before and after the network.

    labels: (slice, row, column), where the run has any to show.
    """

    seconds: float
    preprocessing: float = 0.0
    export: float = 0.0
    labels: NDArray[np.generic] | None = None


@dataclass(frozen=True)
class Agreement:
    """Two label maps compared. worst_dice: of the labels that either has."""

    equal: float
    worst_dice: float
    labels: int

    def __str__(self) -> str:
        return f"{self.equal:.4%}, worst Dice {self.worst_dice:.5f} of {self.labels} labels"


def agreement(ours: Run, stock: Run) -> Agreement:
    """How far two runs on one volume agree."""
    assert ours.labels is not None
    assert stock.labels is not None
    count = 1 + max(int(ours.labels.max()), int(stock.labels.max()))
    same = ours.labels == stock.labels
    both = np.bincount(ours.labels[same], minlength=count)
    either = np.bincount(ours.labels.ravel(), minlength=count)
    either += np.bincount(stock.labels.ravel(), minlength=count)
    dice = 2 * both[either > 0] / either[either > 0]
    return Agreement(float(same.mean()), float(dice.min()), len(dice))


def worst(agreements: Sequence[Agreement]) -> Agreement:
    """The least of each over several volumes."""
    return Agreement(
        min(one.equal for one in agreements),
        min(one.worst_dice for one in agreements),
        max(one.labels for one in agreements),
    )


def middle(runs: Sequence[Run]) -> float:
    """The median of the seconds."""
    return statistics.median(run.seconds for run in runs)


def shown(runs: Sequence[Run]) -> str:
    """The median and the range: "22.1 s (21.8 to 22.9)"."""
    low, high = min(run.seconds for run in runs), max(run.seconds for run in runs)
    spread = f" ({_number(low)} to {_number(high)})" if len(runs) > 1 else ""
    return f"{_number(middle(runs))} s{spread}"


def rim(runs: Sequence[Run]) -> str:
    """Medians of preprocessing and export: "0.9 + 1.2 s"."""
    before = statistics.median(run.preprocessing for run in runs)
    after = statistics.median(run.export for run in runs)
    return f"{_number(before)} + {_number(after)} s"


def times(slow: Sequence[Run], fast: Sequence[Run]) -> str:
    """How many times faster, by the medians: "3.1×"."""
    return f"{middle(slow) / middle(fast):.3g}×"


def _number(seconds: float) -> str:
    return f"{seconds:.1f}" if seconds >= 10 else f"{seconds:.2f}"
