"""Crops around the hippocampus: one at a time, many in a row, and what memory they leave taken."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from bench.figure import Comparison
from bench.inference import cases, ours, stock
from bench.inference.ours import SETTLED, Sustained
from bench.inference.process import Call, alone, interleaved, process
from bench.inference.run import Run, agreement, middle, shown, times, worst
from node.core.model import Profile
from tests.model_factory import HIPPOCAMPUS

_COMPARED = 40  # crops whose labels are compared
_WARM_ROUNDS = 3  # for each of the slow ones: half a second is soon disturbed

Runs = Mapping[str, Sequence[Run]]


def measure(folder: Path, count: int, rounds: int) -> list[Comparison]:
    """The rows of the hippocampus model: `count` crops in a row, each way `rounds` times."""
    available = alone(cases.write_crops, folder, count)
    with process(as_the_node=True) as node, process(as_the_node=False) as stocks:
        compared = _compared(node, stocks, folder, min(available, _COMPARED))
        one = _one_crop(node, stocks, folder, rounds)
        tiles = sum(
            stocks(stock.tile_count, HIPPOCAMPUS, folder, n % available) for n in range(count)
        )
        many = _many_crops(node, stocks, folder, count, tiles, rounds)
    memory = [
        alone(ours.sustained, HIPPOCAMPUS, folder, count, "openvino", profile)
        for profile in (Profile.EXACT, Profile.FAST)
    ]
    return [_single(one), _rate(many, count, tiles), compared, _memory(memory, count)]


def _compared(node: Call, stocks: Call, folder: Path, count: int) -> Comparison:
    """Every label map beside stock's; both are warm afterwards."""
    found = []
    for number in range(count):
        mine = node(ours.run, HIPPOCAMPUS, folder, number, "openvino", Profile.EXACT)
        found.append(agreement(mine, stocks(stock.run, HIPPOCAMPUS, folder, number, mirrors=True)))
    return Comparison(
        "the same labels as predict_single_npy_array, hippocampus, openvino",
        "≥ 99.99 % of the voxels, Dice ≥ 0.999 for every label",
        str(worst(found)),
        "–",
        f"the worst of {count} crops, 8 mirrors",
    )


def _one_crop(node: Call, stocks: Call, folder: Path, rounds: int) -> Runs:
    model = HIPPOCAMPUS
    warm = {
        "ours": partial(node, ours.run, model, folder, 0, "openvino", Profile.EXACT),
        "stock": partial(stocks, stock.run, model, folder, 0, mirrors=True),
    }
    command = {"command": partial(stock.command, model, folder, mirrors=True)}
    runs = interleaved(warm, rounds * _WARM_ROUNDS)
    return {**runs, **interleaved(command, rounds)}


def _many_crops(
    node: Call, stocks: Call, folder: Path, count: int, tiles: int, rounds: int
) -> Runs:
    model = HIPPOCAMPUS
    ways: dict[str, partial[Run]] = {
        "ours": partial(node, ours.sustained, model, folder, count, "openvino", Profile.FAST),
        "bare": partial(node, ours.bare_network, model, "openvino", tiles),
        "stock": partial(stocks, stock.sustained, model, folder, count),
    }
    node(ours.run, model, folder, 0, "openvino", Profile.FAST)
    stocks(stock.run, model, folder, 0, mirrors=False)
    return interleaved(ways, rounds)


def _single(runs: Runs) -> Comparison:
    mine, warm, command = runs["ours"], runs["stock"], runs["command"]
    return Comparison(
        "a hippocampus crop in memory → label map, exact, openvino",
        "≤ 0.42 s where stock takes 1.31 and 17–21 s; ≥ 3× warm, ≥ 40× command",
        f"**{shown(mine)}**: {times(warm, mine)} warm, {times(command, mine)} command",
        f"warm API {shown(warm)}; command line {shown(command)}",
        f"{len(mine)} and {len(command)} runs, 8 mirrors, 1.4 M parameters",
    )


def _rate(runs: Runs, count: int, tiles: int) -> Comparison:
    mine, warm, bare = runs["ours"], runs["stock"], runs["bare"]
    return Comparison(
        f"{count} hippocampus crops in a row, profile fast, openvino",
        "≥ 15 crops/s where stock makes 5 and the bare network 23",
        f"**{count / middle(mine):.1f} crops/s**; {times(mine, bare)} the bare network's time, "
        f"which makes {count / middle(bare):.1f}",
        f"{count / middle(warm):.1f} crops/s, warm API",
        f"each way {len(mine)} times; prepared, predicted and finished in three threads; "
        f"{tiles} patches, no mirrors",
    )


def _memory(found: Sequence[Sustained], count: int) -> Comparison:
    exact, fast = (
        f"{one.resident_when_settled / 1e6:.0f} → {one.resident_at_the_end / 1e6:.0f} MB, "
        f"{one.growth:+.1%}"
        for one in found
    )
    return Comparison(
        f"memory after {SETTLED} and after {count} crops",
        "≤ 2 % more",
        f"exact {exact}; fast {fast}",
        "–",
        "VmRSS of a fresh process each, openvino",
    )
