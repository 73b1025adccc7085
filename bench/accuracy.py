"""Dice of `segnode predict` on DICOM and of nnU-Net itself on the NIfTI, all held-out cases."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from bench.figure import Figure, Section
from node.core.model import Profile
from node.inference.model import load_model
from tests.acceptance.test_predict import dice, nnunet_on_nifti, predict, write_as_dicom

SHARED = Path(__file__).parents[2] / "shared"
HEADING = "Accuracy"
LABELS = {1: "anterior", 2: "posterior"}
_QUICK = 2  # cases
_FASTER = (Profile.FAST, Profile.FASTEST)
_MODEL = SHARED / "models" / "hippocampus"
_DATA = SHARED / "data" / "hippocampus"


@dataclass(frozen=True, eq=False)
class Cases:
    """Held-out volumes, their labels by hand, and the folder of their DICOM series."""

    images: Mapping[str, sitk.Image]
    truths: Mapping[str, NDArray[np.generic]]
    series: Mapping[str, str]  # Series Instance UIDs
    folder: Path

    def predicted(self, profile: Profile) -> dict[str, NDArray[np.generic]]:
        """What the command finds, by case, on the grid of the labels by hand."""
        out = self.folder.with_name(profile.value)
        found = predict(_MODEL, self.folder, out, "--profile", profile.value)
        return {
            case: sitk.GetArrayFromImage(sitk.DICOMOrient(found[uid], "RAS"))
            for case, uid in self.series.items()
        }


def measure(folder: Path, quick: bool) -> Section:
    """The Dice of both, the largest difference of any case and label, and that of the profiles."""
    if not (_MODEL.is_dir() and _DATA.is_dir()):
        return Section(HEADING, [])
    names = json.loads((_MODEL / "splits_final.json").read_text())[0]["val"]
    cases = _cases(names[: _QUICK if quick else None], folder / "in")
    return Section(HEADING, [_exact(cases), *(_profile(cases, p) for p in _FASTER)])


def _cases(names: Sequence[str], folder: Path) -> Cases:
    images = {n: sitk.ReadImage(str(_DATA / "imagesTr" / f"{n}_0000.nii.gz")) for n in names}
    truths = {
        n: sitk.GetArrayFromImage(sitk.ReadImage(str(_DATA / "labelsTr" / f"{n}.nii.gz")))
        for n in names
    }
    series = {name: write_as_dicom(image, name, folder) for name, image in images.items()}
    return Cases(images, truths, series, folder)


def _exact(cases: Cases) -> Figure:
    model = load_model("hippocampus", _MODEL)
    ours = _dice(cases, cases.predicted(Profile.EXACT))
    stock = {name: nnunet_on_nifti(model, image) for name, image in cases.images.items()}
    theirs = _dice(cases, stock)
    worst = max(abs(a - b) for x in LABELS for a, b in zip(ours[x], theirs[x], strict=True))
    means = ", ".join(
        f"{name} {statistics.mean(ours[label]):.4f} / {statistics.mean(theirs[label]):.4f}"
        for label, name in LABELS.items()
    )
    return Figure(
        "Dice of `segnode predict` on DICOM / `nnUNetPredictor` on the NIfTI",
        "within 0.005",
        f"{means}; largest difference of a case {worst:.4f}",
        f"{len(cases.images)} held-out volumes of Task04 against their labels",
    )


def _profile(cases: Cases, profile: Profile) -> Figure:
    found = _dice(cases, cases.predicted(profile))
    means = ", ".join(
        f"{name} {statistics.mean(found[label]):.4f}" for label, name in LABELS.items()
    )
    return Figure(f"the same with `--profile {profile}`", "–", means, "the same volumes")


def _dice(cases: Cases, found: Mapping[str, NDArray[np.generic]]) -> dict[int, list[float]]:
    return {
        label: [dice(found[name], truth, label) for name, truth in cases.truths.items()]
        for label in LABELS
    }
