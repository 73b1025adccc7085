"""Dice of `segnode predict` on DICOM and of nnU-Net itself on the NIfTI, all held-out cases."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path

import SimpleITK as sitk

from bench.figure import Figure, Section
from node.inference.model import load_model
from tests.acceptance.test_predict import dice, nnunet_on_nifti, predict, write_as_dicom

SHARED = Path(__file__).parents[2] / "shared"
HEADING = "Accuracy"
LABELS = {1: "anterior", 2: "posterior"}
_QUICK = 2  # cases


def measure(folder: Path, quick: bool) -> Section:
    """The Dice of both, and the largest difference of any case and label."""
    model_folder = SHARED / "models" / "hippocampus"
    data = SHARED / "data" / "hippocampus"
    if not (model_folder.is_dir() and data.is_dir()):
        return Section(HEADING, [])
    cases = json.loads((model_folder / "splits_final.json").read_text())[0]["val"]
    return Section(
        HEADING, [_figure(folder, model_folder, data, cases[: _QUICK if quick else None])]
    )


def _figure(folder: Path, model_folder: Path, data: Path, cases: Sequence[str]) -> Figure:
    images = {c: sitk.ReadImage(str(data / "imagesTr" / f"{c}_0000.nii.gz")) for c in cases}
    series = {case: write_as_dicom(images[case], case, folder / "in") for case in cases}
    found = predict(model_folder, folder / "in", folder / "out")
    model = load_model("hippocampus", model_folder)
    ours: dict[int, list[float]] = {label: [] for label in LABELS}
    theirs: dict[int, list[float]] = {label: [] for label in LABELS}
    for case in cases:
        truth = sitk.GetArrayFromImage(sitk.ReadImage(str(data / "labelsTr" / f"{case}.nii.gz")))
        stock = nnunet_on_nifti(model, images[case])
        mine = sitk.GetArrayFromImage(sitk.DICOMOrient(found[series[case]], "RAS"))
        for label in LABELS:
            ours[label].append(dice(mine, truth, label))
            theirs[label].append(dice(stock, truth, label))
    worst = max(abs(a - b) for x in LABELS for a, b in zip(ours[x], theirs[x], strict=True))
    means = ", ".join(
        f"{name} {statistics.mean(ours[label]):.4f} / {statistics.mean(theirs[label]):.4f}"
        for label, name in LABELS.items()
    )
    return Figure(
        "Dice of `segnode predict` on DICOM / `nnUNetPredictor` on the NIfTI",
        "within 0.005",
        f"{means}; largest difference of a case {worst:.4f}",
        f"{len(cases)} held-out volumes of Task04 against their labels",
    )
