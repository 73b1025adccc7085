"""Volumes to SimpleITK images and back: the judge of geometry is not our own code."""

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from node.core.volume import Affine, LabelMap, Volume

FRAME = "1.2.826.0.1.3680043.8.498.1"
TOLERANCE = 0.6 / 255  # of a probability: half a step of a byte, and what float32 leaves open


def volume_of(image: sitk.Image) -> Volume:
    """The image's voxels as float32, on its grid; ITK's physical space is DICOM's, LPS mm."""
    return Volume(sitk.GetArrayFromImage(image).astype(np.float32), affine_of(image), FRAME)


def affine_of(image: sitk.Image) -> Affine:
    """(slice, row, column) → LPS mm."""
    matrix = np.reshape(image.GetDirection(), (3, 3)) * np.asarray(image.GetSpacing())
    affine: Affine = np.eye(4)
    affine[:3, :3] = matrix[:, ::-1]  # ITK's axes are (x, y, z) = (column, row, slice)
    affine[:3, 3] = image.GetOrigin()
    return affine


def image_of(grid: Volume | LabelMap) -> sitk.Image:
    """The voxels as an ITK image on the same grid."""
    matrix: NDArray[np.float64] = grid.affine[:3, 2::-1]
    spacing = np.linalg.norm(matrix, axis=0)
    image = sitk.GetImageFromArray(grid.array)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((matrix / spacing).ravel().tolist())
    image.SetOrigin(grid.affine[:3, 3].tolist())
    return image


def turned(volume: Volume, orientation: str) -> Volume:
    """The same voxels on the grid whose (column, row, slice) axes run as the letters say."""
    return volume_of(sitk.DICOMOrient(image_of(volume), orientation))


def axial_array(label_map: LabelMap) -> NDArray[np.generic]:
    """The labels on the axial grid, so that grids can be compared voxel by voxel."""
    array: NDArray[np.generic] = sitk.GetArrayFromImage(
        sitk.DICOMOrient(image_of(label_map), "LPS")
    )
    return array
