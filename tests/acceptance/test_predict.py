"""`segnode predict` from DICOM against nnU-Net itself on the NIfTI, and in four orientations."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from node.core.model import Model
from node.core.uids import derive_uid
from node.inference.model import load_model
from tests.peers import DEMO_MODEL, REPOSITORY
from tests.series_factory import make_series, write_series
from tests.stock import stock_labels

HELD_OUT = 5  # of the 44; `make bench` takes all of them
TOLERANCE = 0.005


def dice(one: NDArray[np.generic], other: NDArray[np.generic], label: int) -> float:
    both = np.count_nonzero((one == label) & (other == label))
    return 2 * both / (np.count_nonzero(one == label) + np.count_nonzero(other == label))


def predict(model: Path, folder: Path, out: Path, *options: str) -> dict[str, sitk.Image]:
    """Runs the command; the label maps by Series Instance UID."""
    done = subprocess.run(
        [sys.executable, "-m", "node", "predict", model, folder, "-o", out, "--nifti", *options],
        capture_output=True, text=True, cwd=REPOSITORY, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {
        path.name.removesuffix(".nii.gz"): sitk.ReadImage(str(path))
        for path in out.glob("*.nii.gz")
    }


def write_as_dicom(image: sitk.Image, name: str, folder: Path) -> str:
    """An axial MR series of a NIfTI image, 16 bits with a slope; its Series Instance UID."""
    axial = sitk.DICOMOrient(image, "LPS")
    voxels = sitk.GetArrayFromImage(axial).astype(np.float64)
    low, high = float(voxels.min()), float(voxels.max())
    slope = float(f"{(high - low) / 65535:.10g}") or 1.0
    column, row, slice_ = axial.GetSpacing()
    x, y, z = axial.GetOrigin()
    instances = make_series(
        spacing_mm=(slice_, row, column),
        origin=(x, y, z),
        name=name,
        voxels=np.clip((voxels - low) / slope + 0.5, 0, 65535).astype(np.uint16),
    )
    for one in instances:
        one.RescaleSlope, one.RescaleIntercept = f"{slope:.10g}", f"{low:.10g}"
    write_series(instances, folder / name)
    return derive_uid(name, "series")


def nnunet_on_nifti(model: Model, image: sitk.Image) -> NDArray[np.generic]:
    """nnU-Net's own predictor on the array and spacing that its SimpleITKIO would read."""
    array = sitk.GetArrayFromImage(image)[None].astype(np.float32)
    return stock_labels(model, array, image.GetSpacing()[::-1])


def test_held_out_volumes_get_the_dice_that_nnunet_gives_them(
    shared_data: Path, shared_models: Path, tmp_path: Path
) -> None:
    model = load_model("hippocampus", shared_models / "hippocampus")
    splits = json.loads((shared_models / "hippocampus" / "splits_final.json").read_text())
    cases = splits[0]["val"][:HELD_OUT]
    images = {
        case: sitk.ReadImage(str(shared_data / "hippocampus" / "imagesTr" / f"{case}_0000.nii.gz"))
        for case in cases
    }
    series = {case: write_as_dicom(images[case], case, tmp_path / "in") for case in cases}
    found = predict(shared_models / "hippocampus", tmp_path / "in", tmp_path / "out")
    for case in cases:
        path = shared_data / "hippocampus" / "labelsTr" / f"{case}.nii.gz"
        truth = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        theirs = nnunet_on_nifti(model, images[case])
        # Nothing was resampled: the axial grid turned back is the grid of the NIfTI.
        ours = sitk.GetArrayFromImage(sitk.DICOMOrient(found[series[case]], "RAS"))
        for label in (1, 2):
            assert abs(dice(ours, truth, label) - dice(theirs, truth, label)) <= TOLERANCE
            assert dice(ours, theirs, label) > 0.995


def test_a_volume_in_four_orientations_gives_one_segmentation_in_the_patient(
    tmp_path: Path,
) -> None:
    pytest.importorskip("nilearn", reason="needs the template: pip install nilearn")
    script = REPOSITORY / "config" / "demo" / "make_series.py"
    found = {}
    for name, options in {
        "axial": [],
        "reversed": ["--reverse"],
        "sagittal": ["--orientation", "sagittal"],
        "coronal": ["--orientation", "coronal"],
    }.items():
        folder = tmp_path / name
        subprocess.run([sys.executable, script, *options, "-o", folder], check=True)
        (found[name],) = predict(DEMO_MODEL, folder, tmp_path / f"{name}-out").values()
    axial = found["axial"]
    reference = sitk.GetArrayFromImage(axial)
    for image in found.values():
        same_grid = sitk.Resample(image, axial, sitk.Transform(), sitk.sitkNearestNeighbor)
        labels = sitk.GetArrayFromImage(same_grid)
        for label in (1, 2):
            assert dice(labels, reference, label) >= 0.98
    turned_back = sitk.GetArrayFromImage(sitk.DICOMOrient(found["reversed"], "LPS"))
    assert np.array_equal(turned_back, reference)
    assert _centroid(axial, 1)[1] < _centroid(axial, 2)[1]  # the anterior part lies in front
    for label in (1, 2):
        ml = np.count_nonzero(reference == label) * np.prod(axial.GetSpacing()) / 1000
        assert ml == pytest.approx(2.1, rel=0.10)


def _centroid(image: sitk.Image, label: int) -> tuple[float, float, float]:
    """LPS mm, by SimpleITK."""
    statistics = sitk.LabelShapeStatisticsImageFilter()
    statistics.Execute(image)
    x, y, z = statistics.GetCentroid(label)
    return x, y, z
