"""The volumes and the models that are measured, written to a folder and read back from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from bench.inference import ct
from node.core.names import SeriesInstanceUID
from node.core.volume import Volume, axis_map
from node.dicom.assemble import assemble
from node.dicom.inbox import read_files
from node.inference.model import load_model
from tests.images import image_of
from tests.model_factory import HIPPOCAMPUS, axial_affine, make_model_folder

REPOSITORY = Path(__file__).parents[2]
_SHARED_CROPS = REPOSITORY.parent / "shared" / "data" / "hippocampus" / "imagesTr"
_DEMO_SERIES = REPOSITORY / "config" / "demo" / "series"
_FRAME = "1.2.826.0.1.3680043.8.498.1"

# What nnU-Net notes of abdominal CT; the bounds cut off most of the lungs and of the bones.
_CT_INTENSITIES = {
    "mean": 80.0, "std": 140.0, "percentile_00_5": -950.0, "percentile_99_5": 320.0,
    "median": 95.0, "min": -1024.0, "max": 3071.0,
}  # fmt: skip


@dataclass(frozen=True)
class CtCase:
    """A CT and a network for it. shape and spacing_mm: (slice, row, column).

    patch and network_mm: of every axis. rounds: how often each way to run it is measured.
    """

    name: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    patch: int
    network_mm: float
    features: tuple[int, ...]
    heads: int
    rounds: int

    @property
    def warm_up_shape(self) -> tuple[int, int, int]:
        """Of a first, smaller volume, which pays for what is slow only once."""
        slices, rows, columns = self.shape
        return slices // 2, rows // 2, columns // 2


def write_ct_case(case: CtCase, folder: Path) -> None:
    """The case's model, its volume (after one to warm up with), and that volume as NIfTI."""
    large, small = (
        Volume(ct.body(shape), axial_affine(case.spacing_mm), _FRAME)
        for shape in (case.shape, case.warm_up_shape)
    )
    make_model_folder(
        folder / "model",
        patch=(case.patch,) * 3,
        labels={"background": 0, **{f"organ {n}": n for n in range(1, case.heads)}},
        spacing=(case.network_mm,) * 3,
        features=case.features,
        ct_intensities=_CT_INTENSITIES,
        balanced_on=_centre_as_the_network_sees_it(case, large.array),
    )
    write_volumes([small, large], folder)
    write_nifti(large, folder)


def write_crops(folder: Path, most: int) -> int:
    """Crops around the hippocampus as the network was trained on them, the first also as NIfTI.

    Returns how many: those of the training data where they are, else the demo's one.
    """
    found = sorted(_SHARED_CROPS.glob("*.nii.gz"))[:most]
    crops = [_crop(path) for path in found] or [_demo_crop()]
    write_volumes(crops, folder)
    write_nifti(crops[0], folder)
    return len(crops)


def write_volumes(volumes: Sequence[Volume], folder: Path) -> None:
    """Read back by `volumes`."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, volume in enumerate(volumes):
        np.savez(folder / f"volume{number:03d}.npz", array=volume.array, affine=volume.affine)


@cache
def volumes(folder: Path) -> tuple[Volume, ...]:
    """What `write_volumes` wrote, in its order; read once by a process."""
    files = [np.load(path) for path in sorted(folder.glob("volume*.npz"))]
    return tuple(Volume(file["array"], file["affine"], _FRAME) for file in files)


def write_nifti(volume: Volume, folder: Path) -> None:
    """The only image of folder/images, named as nnU-Net's command line wants it."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    path = folder / "images" / "case_0000.nii.gz"
    sitk.WriteImage(image_of(volume), str(path), useCompression=True)


def _crop(path: Path) -> Volume:
    """The array as nnU-Net's reader gives it, which passes over the direction."""
    image = sitk.ReadImage(str(path))
    column, row, slice_ = image.GetSpacing()
    array = sitk.GetArrayFromImage(image).astype(np.float32)
    return Volume(array, axial_affine((slice_, row, column)), _FRAME)


def _demo_crop() -> Volume:
    model = load_model("hippocampus", HIPPOCAMPUS)
    series = read_files(SeriesInstanceUID("1.2"), sorted(_DEMO_SERIES.glob("*.dcm")))
    volume = assemble(series, model.accepts)
    turned = axis_map(volume.affine, model.orientation).apply(volume)
    return Volume(turned.array, axial_affine(turned.spacing_mm), _FRAME)


def _centre_as_the_network_sees_it(
    case: CtCase, voxels: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The patch in the volume's middle, normalised: (1, 1, z, y, x). Nearest voxels will do."""
    for axis, spacing in enumerate(case.spacing_mm):
        away = (np.arange(case.patch) - case.patch / 2) * case.network_mm / spacing
        nearest = np.rint(voxels.shape[axis] / 2 + away).astype(int)
        voxels = voxels.take(nearest.clip(0, voxels.shape[axis] - 1), axis)
    low, high = _CT_INTENSITIES["percentile_00_5"], _CT_INTENSITIES["percentile_99_5"]
    normal = (voxels.clip(low, high) - _CT_INTENSITIES["mean"]) / _CT_INTENSITIES["std"]
    return normal[None, None].astype(np.float32)
