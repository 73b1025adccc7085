"""Logits on the network's grid → labels on the Volume's, without ever resampling all heads.

The answer is nnU-Net's (inference/export_prediction.py): every head resampled to the Volume's
grid, rounded to half precision, then the first maximum, or the regions in their order. Three
things make it fast and small. Blocks of the Volume are finished one by one. A head whose highest
logit in a cell lies below another's lowest cannot win there and is left out (see blocks.py). And a
block that only one head can win is not computed at all.
"""

from collections.abc import Sequence

import torch

from node.inference.blocks import Block, Blocks, overflown
from node.inference.crew import Crew
from node.inference.plans import Heads, Rule
from node.inference.preprocess import Case
from node.inference.resampling import Resampling


def export(logits: torch.Tensor, case: Case, rule: Rule, heads: Heads, crew: Crew) -> torch.Tensor:
    """Labels of the whole Volume, uint8 or int16, on the CPU, in the plans' axis order.

    logits: half precision (head, slice, row, column). Raises Fatal where they are not all finite,
    ValueError where they lie on another grid than the case.
    """
    dtype = torch.int16 if heads.needs_16_bits else torch.uint8
    labels = torch.zeros(case.shape, dtype=dtype)
    inside = labels[case.box]
    require_one_grid(logits, case.to_source, inside)
    if case.to_source.is_local:
        _Labels(Blocks(logits, case.to_source, rule, crew), heads, inside).run()
    else:
        _head_by_head(logits, case.to_source, heads, inside)
    return labels


def require_one_grid(logits: torch.Tensor, to_source: Resampling, crop: torch.Tensor) -> None:
    """Blocks of another grid would fill the crop in part, and nobody would see it."""
    before, after = tuple(logits.shape[1:]), to_source.new_shape
    if before != to_source.old_shape:
        raise ValueError(f"logits of {before} voxels, not {to_source.old_shape}")
    if after != crop.shape:
        raise ValueError(f"logits of {after} voxels for a crop of {tuple(crop.shape)}")


class _Labels:
    """One export by blocks; each block writes its own part of `labels`."""

    def __init__(self, blocks: Blocks, heads: Heads, labels: torch.Tensor) -> None:
        self._blocks, self._heads, self._labels = blocks, heads, labels
        if heads.regions_class_order is None:
            self._able = torch.ge(blocks.highest, blocks.lowest.amax(0))
        else:
            self._able = torch.gt(blocks.highest, 0.0)  # sigmoid(x) > 0.5

    def run(self) -> None:
        self._blocks.each(self._finish)

    @torch.inference_mode()
    def _finish(self, block: Block) -> None:
        out = self._labels[block.out]
        able = self._able_in(block)
        if self._heads.regions_class_order is None and len(able) == 1:
            out.fill_(able[0])
            return
        if not able:
            return
        values = self._blocks.resampled(able, block)
        if self._heads.regions_class_order is None:
            out.copy_(first_maximum(values, able, out.dtype))
        else:
            order = self._heads.regions_class_order
            out.copy_(painted(values, [order[head] for head in able], out.dtype))

    def _able_in(self, block: Block) -> list[int]:
        """The heads that can be seen somewhere in the block, ascending."""
        able: list[int] = torch.nonzero(self._able[:, *block.cells].flatten(1).any(1))[
            :, 0
        ].tolist()
        return able


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


@torch.inference_mode()
def _head_by_head(
    logits: torch.Tensor, to_source: Resampling, heads: Heads, labels: torch.Tensor
) -> None:
    """For plans that resample logits with splines, which overshoot: each head as a whole."""
    best = torch.full(to_source.new_shape, -torch.inf, device=logits.device)
    label = torch.zeros(to_source.new_shape, dtype=labels.dtype, device=logits.device)
    for number, head in enumerate(logits):
        if not bool(head.isfinite().all()):
            raise overflown()
        value = to_source.apply(head.float()).half().float()
        if heads.regions_class_order is not None:
            label[torch.sigmoid(value) > 0.5] = heads.regions_class_order[number]
        else:
            label[value > best] = number
            torch.maximum(best, value, out=best)
    labels.copy_(label)
