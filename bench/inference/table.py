"""The table by which the predictor is judged."""

from dataclasses import replace
from pathlib import Path

from bench import machine
from bench.figure import Comparison, Section
from bench.inference import crop_rows, ct_rows, ours
from bench.inference.cases import CtCase
from bench.inference.ours import ExportCase
from bench.inference.process import alone

HEADING = "The predictor beside stock nnU-Net"

SMALL = CtCase(  # 4.1 million parameters, 100 GFLOP for a patch
    "small", (120, 512, 512), (1.5, 0.8, 0.8), 96, 1.5, (16, 32, 64, 128, 160), heads=6, rounds=3
)
STANDARD = CtCase(  # nnU-Net's default: 31 million parameters, 958 GFLOP for a patch
    "standard", SMALL.shape, SMALL.spacing_mm, 128, 1.5, (32, 64, 128, 256, 320, 320), 25, rounds=1
)
EXPORT = ExportCase(heads=118, shape=(200, 512, 512), spacing_mm=(1.5, 0.8, 0.8), network_mm=1.5)
CROPS, ROUNDS = 200, 3
_NOTES = (
    "Ours and stock take turns, each in a process of its own. “Warm”, “warm API”: "
    "`predict_single_npy_array` of a predictor that has run before. “Command”, “command line”: "
    "`nnUNetv2_predict_from_modelfolder` from start to exit, spared its search through all "
    "trainer modules, which takes seconds more.",
    "The CT is made, and the networks of its rows have random weights; the crops of the "
    "hippocampus and its network are real.",
)
_QUICK_SHAPE = (40, 96, 96)


def measure(folder: Path, quick: bool) -> Section:
    """All rows, in one run; the machine's speed before and after."""
    before = alone(machine.matrix_gflops)
    rows = _quick_rows(folder) if quick else _rows(folder)
    after = alone(machine.matrix_gflops)
    speed = f"Float32 matrix product on all cores: {before:.0f} GFLOP/s before, {after:.0f} after."
    return Section(HEADING, rows, [speed, *_NOTES])


def _rows(folder: Path) -> list[Comparison]:
    return [
        *ct_rows.measure(SMALL, folder / "small", with_command=True),
        *ct_rows.measure(STANDARD, folder / "standard", with_command=False),
        export_row(EXPORT),
        *crop_rows.measure(folder / "crops", CROPS, ROUNDS),
    ]


def _quick_rows(folder: Path) -> list[Comparison]:
    small = replace(SMALL, shape=_QUICK_SHAPE, patch=32, features=(4, 8), rounds=1)
    standard = replace(STANDARD, shape=_QUICK_SHAPE, patch=32, features=(4, 8, 16))
    return [
        *ct_rows.measure(small, folder / "small", with_command=True),
        *ct_rows.measure(standard, folder / "standard", with_command=False),
        export_row(replace(EXPORT, heads=5, shape=_QUICK_SHAPE)),
        *crop_rows.measure(folder / "crops", 4, 1),
    ]


def export_row(case: ExportCase) -> Comparison:
    found = alone(ours.exported, case)
    shape = "×".join(str(n) for n in case.shape)
    return Comparison(
        f"export alone, {case.heads} heads, {shape} from {case.network_mm} mm",
        "≤ 1.5 GB of extra memory",
        f"{found.extra / 1e9:.2f} GB, {found.seconds:.1f} s, {found.labels} labels",
        "–",
        "one run; VmHWM less what was held before, made logits",
    )
