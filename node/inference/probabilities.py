"""Logits on the network's grid → the probability of each label on the Volume's, in bytes.

nnU-Net's (inference/export_prediction.py): every head resampled, rounded to half precision, then
the softmax over all heads, or the sigmoid of each region; outside the crop there is background
only. Blocks of the Volume are finished one by one, so that no more than the bytes themselves is
held of the whole. A block in which no label can reach half of 1/255 is left at zero.
"""

from collections.abc import Mapping
from math import prod

import torch

from node.core.errors import Fatal, Temporary
from node.inference.blocks import Block, Blocks
from node.inference.crew import Crew
from node.inference.export import require_one_grid
from node.inference.plans import Heads, Rule
from node.inference.preprocess import Case
from node.inference.resampling import Resampling

CERTAIN = 255
_NOTHING = -6.3  # e to this power, and the sigmoid of it, round to 0 of 255
# The Pixel Data of one Segmentation, uncompressed, holds no more (PS3.5 7.1.1).
_MOST_BYTES = 4_000_000_000
_PART_OF_FREE = 4  # they are held by the worker, by the node, and on the way between them

Shape = tuple[int, ...]
Found = Mapping[int, torch.Tensor]  # by label: uint8 (slice, row, column)


def require_room(labels: int, shape: Shape, free_bytes: int) -> None:
    """Whether the probabilities of a Volume can be held; asked before the network runs.

    Raises Fatal where they never can be, Temporary where the machine's memory is in use.
    """
    needed = labels * prod(shape)
    size = " × ".join(map(str, shape))
    what = f"the probabilities of {labels} labels for {size} voxels are {needed / 1e9:.1f} GB"
    then = (
        'set segmentation = "binary" or "labelmap" in [peers.NAME.results] of those that want '
        '"fractional", then rerun the Job'
    )
    if needed > _MOST_BYTES:
        raise Fatal(f"{what}, and {_MOST_BYTES / 1e9:.1f} GB is the most: {then}")
    if needed * _PART_OF_FREE > free_bytes:
        raise Temporary(
            f"{what}, and at most a quarter of the {free_bytes / 1e9:.1f} GB of memory that is "
            f"free may go to them: free some, or {then}"
        )


def probabilities(
    logits: torch.Tensor, case: Case, rule: Rule, heads: Heads, crew: Crew
) -> dict[int, torch.Tensor]:
    """By label, uint8 (slice, row, column) of the whole Volume on the CPU; 255 is certain.

    In the plans' axis order, without the background. logits and errors: as export.export.
    """
    found = {label: torch.zeros(case.shape, dtype=torch.uint8) for label in heads.shown.values()}
    inside = {label: whole[case.box] for label, whole in found.items()}
    require_one_grid(logits, case.to_source, next(iter(inside.values())))
    if case.to_source.is_local:
        _Probabilities(Blocks(logits, case.to_source, rule, crew), heads, inside).run()
    elif heads.regions_class_order is None:
        _softmax_head_by_head(logits, case.to_source, heads, inside)
    else:
        _sigmoid_head_by_head(logits, case.to_source, heads, inside)
    return found


class _Probabilities:
    """All labels by blocks; each block writes its own part of `found`."""

    def __init__(self, blocks: Blocks, heads: Heads, found: Found) -> None:
        self._blocks, self._heads, self._found = blocks, heads, found
        most = blocks.highest
        if heads.regions_class_order is None:
            most = most - blocks.lowest.amax(0)  # softmax ≤ e^(own − another's)
        self._able = torch.gt(most, _NOTHING)

    def run(self) -> None:
        self._blocks.each(self._finish)

    @torch.inference_mode()
    def _finish(self, block: Block) -> None:
        able = self._able[:, *block.cells].flatten(1).any(1)
        shown = {head: label for head, label in self._heads.shown.items() if able[head]}
        if not shown:
            return
        if self._heads.regions_class_order is None:
            values = self._blocks.resampled(range(self._heads.count), block).softmax(0)
            values = values[list(shown)]
        else:
            values = self._blocks.resampled(list(shown), block).sigmoid()
        for value, label in zip(in_bytes(values), shown.values(), strict=True):
            self._found[label][block.out].copy_(value)


def in_bytes(values: torch.Tensor) -> torch.Tensor:
    """0 to 1 as 0 to 255, rounded; values are overwritten."""
    return values.mul_(CERTAIN).round_().to(torch.uint8)


@torch.inference_mode()
def _softmax_head_by_head(
    logits: torch.Tensor, to_source: Resampling, heads: Heads, found: Found
) -> None:
    """For plans that resample logits with splines: each head as a whole, and twice.

    First for the sum of all, which each is then divided by; holding all would take the memory.
    """
    total = torch.full(to_source.new_shape, -torch.inf, device=logits.device)
    for head in logits:
        torch.logaddexp(total, _whole(head, to_source), out=total)
    for head, label in heads.shown.items():
        found[label].copy_(in_bytes((_whole(logits[head], to_source) - total).exp_()))


@torch.inference_mode()
def _sigmoid_head_by_head(
    logits: torch.Tensor, to_source: Resampling, heads: Heads, found: Found
) -> None:
    for head, label in heads.shown.items():
        found[label].copy_(in_bytes(_whole(logits[head], to_source).sigmoid_()))


def _whole(head: torch.Tensor, to_source: Resampling) -> torch.Tensor:
    return to_source.apply(head.float()).half().float()
