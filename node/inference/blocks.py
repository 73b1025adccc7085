"""Logits on the network's grid, seen block by block from the Volume's.

Linear interpolation never leaves the range of its inputs, so the extremes of the cells that a block
draws from bound what it can hold: exact, since logits are half precision and rounding is monotone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import torch

from node.core.errors import Fatal
from node.inference.crew import Crew
from node.inference.plans import SPLINE, Rule
from node.inference.resampling import Matrix, Operator, Resampling, Taps, apply_along

_CELL = 8  # voxels of the network's grid along each axis
_CPU_BLOCK = (8, 64, 64)  # fits a core's cache
_GPU_BLOCK = (16, 128, 256)


@dataclass(frozen=True, eq=False)
class Span:
    """One block along one axis: outputs `out` need inputs `source`, by `operator` within these."""

    out: slice
    source: slice
    operator: Operator


@dataclass(frozen=True, eq=False)
class Block:
    """A box of the Volume's grid, and what it needs of the network's."""

    spans: tuple[Span, Span, Span]

    @property
    def out(self) -> tuple[slice, ...]:
        """Where it lies on the Volume's grid."""
        return tuple(span.out for span in self.spans)

    @property
    def source(self) -> tuple[slice, ...]:
        """What it draws from on the network's."""
        return tuple(span.source for span in self.spans)

    @property
    def cells(self) -> tuple[slice, ...]:
        """The cells that hold its source."""
        return tuple(
            slice(part.start // _CELL, (part.stop - 1) // _CELL + 1) for part in self.source
        )


class Blocks:
    """Logits (head, slice, row, column) of half precision, to be brought back by `to_source`.

    highest, lowest: of each head in each cell, (head, …), float32 on the CPU. Raises Fatal where
    the logits are not all finite.
    """

    def __init__(self, logits: torch.Tensor, to_source: Resampling, rule: Rule, crew: Crew) -> None:
        self._logits, self._to_source, self._crew = logits, to_source, crew
        self._rounds = rule.function == SPLINE
        cells = [-(-size // _CELL) for size in logits.shape[1:]]
        self.highest = torch.empty((len(logits), *cells))
        self.lowest = torch.empty((len(logits), *cells))
        crew.each(self._survey, range(len(logits)))
        if not bool((self.highest - self.lowest).isfinite().all()):
            raise overflown()

    def each(self, work: Callable[[Block], None]) -> None:
        """work(block) for every block of the Volume, in any order, from several threads."""
        size = _CPU_BLOCK if self._logits.device.type == "cpu" else _GPU_BLOCK
        slices, rows, columns = (
            spans(operator, after, most)
            for operator, after, most in zip(
                self._to_source.operators, self._to_source.new_shape, size, strict=True
            )
        )
        self._crew.each(work, map(Block, product(slices, rows, columns)))

    def resampled(self, heads: Sequence[int], block: Block) -> torch.Tensor:
        """float32 logits of some heads (ascending) in a block, as nnU-Net rounds them."""
        if len(heads) == len(self._logits):
            values = self._logits[:, *block.source].float()
        else:
            values = torch.stack([self._logits[head][block.source] for head in heads]).float()
        for axis, span in enumerate(block.spans):
            values = apply_along(span.operator, values, axis)
        return values.half().float() if self._rounds else values

    @torch.inference_mode()
    def _survey(self, head: int) -> None:
        """Highest and lowest logit of one head in each cell."""
        self.highest[head] = by_cell(self._logits[head], torch.amax)
        self.lowest[head] = by_cell(self._logits[head], torch.amin)


def spans(operator: Operator, after: int, size: int) -> list[Span]:
    """The blocks of at most `size` outputs along one axis."""
    return [
        _span(operator, slice(start, min(start + size, after))) for start in range(0, after, size)
    ]


def _span(operator: Operator, out: slice) -> Span:
    if operator is None:
        return Span(out, out, None)
    assert isinstance(operator, Taps), "only what is local comes in blocks"
    lower, upper, weight = operator.lower[out], operator.upper[out], operator.weight[out]
    source = slice(int(lower.min()), int(upper.max()) + 1)
    local = Taps(lower - source.start, upper - source.start, weight)
    return Span(out, source, local if not weight.any() else _dense(local, source))


def _dense(taps: Taps, source: slice) -> Matrix:
    """Taps as a small matrix: a product beats gathering."""
    rows = torch.arange(len(taps.lower))
    weight = torch.from_numpy(taps.weight)
    values = torch.zeros(len(rows), source.stop - source.start)
    values[rows, torch.from_numpy(taps.lower)] += 1 - weight
    values[rows, torch.from_numpy(taps.upper)] += weight
    return Matrix(values)


def overflown() -> Fatal:
    """Logits in which there is no answer."""
    return Fatal(
        "the network's logits are not all finite numbers: there is no answer in them; the model "
        "was probably trained on other intensities than these"
    )


def by_cell(
    logits: torch.Tensor, extreme: Callable[[torch.Tensor, int], torch.Tensor]
) -> torch.Tensor:
    """(slice, row, column) → the extremes of each cell, which shares a face with the next one.

    So any two neighbours, and what is interpolated between them, lie in one cell.
    """
    for axis in range(3):
        size = logits.shape[axis]
        parts = [
            extreme(logits.narrow(axis, start, min(_CELL + 1, size - start)), axis)
            for start in range(0, size, _CELL)
        ]
        logits = torch.stack(parts, axis)
    return logits.float().cpu()
