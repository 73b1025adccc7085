"""Logits on the network's grid → labels on the Volume's, without ever resampling all heads.

The answer is nnU-Net's (inference/export_prediction.py): every head resampled to the Volume's
grid, rounded to half precision, then the first maximum, or the regions in their order. Three
things make it fast and small. Blocks of the Volume are finished one by one. Linear interpolation
never leaves the range of its inputs, so a head whose highest logit in a cell lies below another's
lowest cannot win there and is left out: exact, since logits are half precision and rounding is
monotone. And a block that only one head can win is not computed at all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import torch

from node.core.errors import Fatal
from node.inference.crew import Crew
from node.inference.plans import SPLINE, Heads, Rule
from node.inference.preprocess import Case
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


def export(logits: torch.Tensor, case: Case, rule: Rule, heads: Heads, crew: Crew) -> torch.Tensor:
    """Labels of the whole Volume, uint8 or int16, on the CPU, in the plans' axis order.

    logits: half precision (head, slice, row, column). Raises Fatal where they are not all finite,
    ValueError where they lie on another grid than the case.
    """
    dtype = torch.int16 if heads.needs_16_bits else torch.uint8
    labels = torch.zeros(case.shape, dtype=dtype)
    inside = labels[case.box]
    _require_one_grid(logits, case.to_source, inside)
    rounds = rule.function == SPLINE
    if case.to_source.is_local:
        _Blocks(logits, case.to_source, rounds, heads, inside).run(crew)
    else:
        _head_by_head(logits, case.to_source, heads, inside)
    return labels


def _require_one_grid(logits: torch.Tensor, to_source: Resampling, crop: torch.Tensor) -> None:
    """Blocks of another grid would fill the crop in part, and nobody would see it."""
    before, after = tuple(logits.shape[1:]), to_source.new_shape
    if before != to_source.old_shape:
        raise ValueError(f"logits of {before} voxels, not {to_source.old_shape}")
    if after != crop.shape:
        raise ValueError(f"logits of {after} voxels for a crop of {tuple(crop.shape)}")


class _Blocks:
    """One export by blocks; each block writes its own part of `labels`."""

    def __init__(
        self,
        logits: torch.Tensor,
        to_source: Resampling,
        rounds: bool,
        heads: Heads,
        labels: torch.Tensor,
    ) -> None:
        self._logits, self._rounds, self._heads, self._labels = logits, rounds, heads, labels
        block = _CPU_BLOCK if logits.device.type == "cpu" else _GPU_BLOCK
        self._spans = [
            spans(operator, after, size)
            for operator, after, size in zip(
                to_source.operators, to_source.new_shape, block, strict=True
            )
        ]
        cells = [-(-size // _CELL) for size in logits.shape[1:]]
        self._highest = torch.empty((len(logits), *cells))
        self._lowest = torch.empty((len(logits), *cells))
        self._able = torch.empty((len(logits), *cells), dtype=torch.bool)

    def run(self, crew: Crew) -> None:
        crew.each(self._survey, range(len(self._logits)))
        if not bool((self._highest - self._lowest).isfinite().all()):
            raise _overflown()
        if self._heads.regions_class_order is None:
            torch.ge(self._highest, self._lowest.amax(0), out=self._able)
        else:
            torch.gt(self._highest, 0.0, out=self._able)  # sigmoid(x) > 0.5
        slices, rows, columns = self._spans
        crew.each(self._finish, product(slices, rows, columns))

    @torch.inference_mode()
    def _survey(self, head: int) -> None:
        """Highest and lowest logit of one head in each cell."""
        self._highest[head] = by_cell(self._logits[head], torch.amax)
        self._lowest[head] = by_cell(self._logits[head], torch.amin)

    @torch.inference_mode()
    def _finish(self, block: tuple[Span, Span, Span]) -> None:
        out = self._labels[tuple(span.out for span in block)]
        able = self._able_in(block)
        if self._heads.regions_class_order is None and len(able) == 1:
            out.fill_(able[0])
            return
        if not able:
            return
        values = self._resampled(able, block)
        if self._heads.regions_class_order is None:
            out.copy_(first_maximum(values, able, out.dtype))
        else:
            order = self._heads.regions_class_order
            out.copy_(painted(values, [order[head] for head in able], out.dtype))

    def _able_in(self, block: tuple[Span, Span, Span]) -> list[int]:
        """The heads that can be seen somewhere in the block, ascending."""
        cells = tuple(
            slice(span.source.start // _CELL, (span.source.stop - 1) // _CELL + 1) for span in block
        )
        able: list[int] = torch.nonzero(self._able[:, *cells].flatten(1).any(1))[:, 0].tolist()
        return able

    def _resampled(self, able: Sequence[int], block: tuple[Span, Span, Span]) -> torch.Tensor:
        where = tuple(span.source for span in block)
        if len(able) == len(self._logits):
            values = self._logits[:, *where].float()
        else:
            values = torch.stack([self._logits[head][where] for head in able]).float()
        for axis, span in enumerate(block):
            values = apply_along(span.operator, values, axis)
        return values.half().float() if self._rounds else values


def first_maximum(values: torch.Tensor, heads: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """arg-max over (head, …) with the first of equals; `heads` ascending names the heads."""
    best = values[0].clone()
    label = torch.full(best.shape, heads[0], dtype=dtype, device=best.device)
    for value, head in zip(values[1:], heads[1:], strict=True):
        # A later head's number is greater than any before: a maximum writes it where it wins.
        torch.maximum(label, (value > best).to(dtype) * head, out=label)
        torch.maximum(best, value, out=best)
    return label


def painted(values: torch.Tensor, classes: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Regions one over the other: where a head's probability is above one half."""
    label = torch.zeros(values.shape[1:], dtype=dtype, device=values.device)
    for value, number in zip(values, classes, strict=True):
        label[torch.sigmoid(value) > 0.5] = number
    return label


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


def _overflown() -> Fatal:
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


@torch.inference_mode()
def _head_by_head(
    logits: torch.Tensor, to_source: Resampling, heads: Heads, labels: torch.Tensor
) -> None:
    """For plans that resample logits with splines, which overshoot: each head as a whole."""
    best = torch.full(to_source.new_shape, -torch.inf, device=logits.device)
    label = torch.zeros(to_source.new_shape, dtype=labels.dtype, device=logits.device)
    for number, head in enumerate(logits):
        if not bool(head.isfinite().all()):
            raise _overflown()
        value = to_source.apply(head.float()).half().float()
        if heads.regions_class_order is not None:
            label[torch.sigmoid(value) > 0.5] = heads.regions_class_order[number]
        else:
            label[value > best] = number
            torch.maximum(best, value, out=best)
    labels.copy_(label)
