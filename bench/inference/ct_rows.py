"""One CT case run every way there is, and what came of it."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from bench.figure import Comparison
from bench.inference import cases, ours, stock
from bench.inference.cases import CtCase
from bench.inference.process import Call, alone, interleaved, process
from bench.inference.run import Run, agreement, middle, rim, shown, times
from node.core.model import Profile

_WARM_UP, _CASE = 0, 1  # the volumes of the case's folder, as write_ct_case orders them
_BACKENDS = ("openvino", "torch")

Runs = Mapping[str, Sequence[Run]]

_AIMS = {
    ("small", "openvino"): "≤ 26 s where stock takes 73 and 101 s; ≥ 2.6× warm, ≥ 3.5× command",
    ("small", "torch"): "≥ 1.35× warm",
    ("small", "bare openvino"): "≤ 1.3× the bare network",
    ("small", "rim"): "≤ 2.5 s together where stock takes 8 + 15 s",
}
_EQUAL = "≥ 99.99 % of the voxels, Dice ≥ 0.999 for every label"


def measure(case: CtCase, folder: Path, *, with_command: bool) -> list[Comparison]:
    """The rows of one case. Without mirrors: its model allows none."""
    alone(cases.write_ct_case, case, folder)
    with (
        process(as_the_node=True) as openvino,
        process(as_the_node=True) as torch,
        process(as_the_node=False) as stocks,
    ):
        calls = {"openvino": openvino, "torch": torch, "stock": stocks}
        tiles = stocks(stock.tile_count, folder / "model", folder, _CASE)
        warm = _warm(folder, calls)
        for way in warm.values():
            way(_WARM_UP)
        ways = {name: partial(way, _CASE) for name, way in warm.items()}
        ways |= _bare(folder, calls, tiles)
        if with_command:
            ways["command"] = partial(stock.command, folder / "model", folder, mirrors=False)
        return _rows(case, tiles, interleaved(ways, case.rounds))


def _warm(folder: Path, calls: Mapping[str, Call]) -> dict[str, Callable[[int], Run]]:
    """Each way to run the folder's volume of a number in a process that stays."""
    ways = {
        backend: partial(
            calls[backend], ours.run, folder / "model", folder, backend=backend,
            profile=Profile.EXACT,
        )
        for backend in _BACKENDS
    }  # fmt: skip
    theirs = partial(calls["stock"], stock.run, folder / "model", folder, mirrors=False)
    return {**ways, "stock": theirs}


def _bare(folder: Path, calls: Mapping[str, Call], tiles: int) -> dict[str, partial[Run]]:
    return {
        f"bare {backend}": partial(
            calls[backend], ours.bare_network, folder / "model", backend, tiles
        )
        for backend in _BACKENDS
    }


def _rows(case: CtCase, tiles: int, runs: Runs) -> list[Comparison]:
    how = f"{case.rounds} runs each" if case.rounds > 1 else "one run each: they take minutes"
    return [
        *(_speed(case, backend, runs, how) for backend in _BACKENDS),
        *(_against_bare(case, backend, runs, tiles) for backend in _BACKENDS),
        Comparison(
            f"of that before and after the network, {case.heads} heads",
            _AIMS.get((case.name, "rim"), "–"),
            rim(runs["openvino"]),
            rim(runs["stock"]),
            "preprocessing + export, in the runs above",
        ),
        *(_equality(case, backend, runs) for backend in _BACKENDS),
    ]


def _speed(case: CtCase, backend: str, runs: Runs, how: str) -> Comparison:
    ours, warm, command = runs[backend], runs["stock"], runs.get("command")
    factors, theirs = f"{times(warm, ours)} warm", f"warm API {shown(warm)}"
    if command:
        factors += f", {times(command, ours)} command"
        theirs += f"; command line {shown(command)}"
    shape = "×".join(str(n) for n in case.shape)
    return Comparison(
        f"CT {shape} in memory → label map, {case.name} network, {backend}",
        _AIMS.get((case.name, backend), "–"),
        f"**{shown(ours)}**: {factors}",
        theirs,
        f"{how}; {_description(case)}",
    )


def _description(case: CtCase) -> str:
    spacing = "×".join(f"{mm:g}" for mm in reversed(case.spacing_mm))
    return (
        f"{spacing} mm (x, y, z), network at {case.network_mm:g} mm, patch {case.patch}³, "
        f"{case.heads} heads, no mirrors"
    )


def _against_bare(case: CtCase, backend: str, runs: Runs, tiles: int) -> Comparison:
    bare = runs[f"bare {backend}"]
    theirs = f"{times(runs['stock'], bare)}" if backend == "torch" else "–"
    return Comparison(
        f"the same against the bare network, {backend}",
        _AIMS.get((case.name, f"bare {backend}"), "–"),
        f"{times(runs[backend], bare)} the bare network's {shown(bare)}",
        theirs,
        f"{tiles} patches, {middle(bare) / tiles:.3f} s each, as many at once as a prediction runs",
    )


def _equality(case: CtCase, backend: str, runs: Runs) -> Comparison:
    return Comparison(
        f"the same labels as predict_single_npy_array, {case.name} network, {backend}",
        _EQUAL,
        str(agreement(runs[backend][-1], runs["stock"][-1])),
        "–",
        f"the CT above, {case.heads} heads",
    )
