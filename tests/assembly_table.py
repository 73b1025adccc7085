"""The table in docs/assembly.md: every real series, what becomes of it, and what others read.

`python -m tests.assembly_table DATA/dicom` prints the rows.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

from node.core.errors import SeriesRejected
from node.core.model import InputRules
from node.core.names import SeriesInstanceUID
from node.core.volume import Volume
from node.dicom.assemble import Stack, stack
from node.dicom.planes import planes_of
from node.dicom.series import SourceSeries
from node.dicom.volumes import split

POSITION_MM = 0.01
HEADER = (
    "| series | instances | candidate volumes | outcome | with the UIDs it lacks "
    "| `resample = true` | dcm2niix | SimpleITK |"
)

Grid = tuple[str, NDArray[np.float64], NDArray[np.float64]]  # name, (i, j, k) voxels, ijk1 → LPS mm


@dataclass(frozen=True, eq=False)
class Real:
    """One series as it lies in a folder."""

    name: str
    paths: tuple[Path, ...]
    instances: tuple[Dataset, ...]

    def source(self) -> SourceSeries:
        return SourceSeries(SeriesInstanceUID(self.name), self.instances)


def real_series(root: Path) -> Iterator[Real]:
    """Every series below a folder; one UID in two folders is two of them."""
    found: dict[tuple[Path, str], list[tuple[Path, Dataset]]] = defaultdict(list)
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        try:
            instance = dcmread(path)
        except Exception:  # a DICOMDIR, a NIfTI, a licence
            continue
        if "Rows" in instance:
            found[(path.parent, str(instance.get("SeriesInstanceUID")))].append((path, instance))
    for (folder, _), files in found.items():
        paths, instances = zip(*files, strict=True)
        yield Real(str(folder.relative_to(root)), tuple(paths), tuple(instances))


def row(real: Real) -> str:
    """A line of the table."""
    whole = Real(real.name, real.paths, tuple(with_uids(real.instances)))
    planes = [plane for one in real.instances for plane in planes_of(one)]
    lacks = any(not one.get("FrameOfReferenceUID") or not one.SOPClassUID for one in real.instances)
    candidates = [candidate_stack(whole, index) for index in range(len(_candidates(whole)))]
    made = [one for one in candidates if one is not None]
    plain, supplied = outcome(real), outcome(whole)
    resampled = outcome(whole, InputRules(resample=True))
    cells = [
        f"{real.name}<br>`{real.instances[0].get('SeriesInstanceUID') or 'blank'}`",
        str(len(real.instances)),
        "<br>".join(_in_words(c.why, len(c.planes), c.fault) for c in split(planes)),
        plain,
        supplied if lacks and supplied != plain else "",
        resampled if resampled != supplied else "",
        judged(made, list(dcm2niix(real.paths))),
        judged(made, list(simple_itk(real, whole))),
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def outcome(real: Real, rules: InputRules | None = None) -> str:
    """What the node makes of the series: shape and spacing, or its sentence without the UIDs."""
    try:
        made = stack(real.source(), rules or InputRules())
    except SeriesRejected as error:
        return "refused: " + without_uids(str(error))
    shape = " × ".join(str(n) for n in made.volume.array.shape)
    spacing = ", ".join(f"{value:.4g}" for value in made.volume.spacing_mm)
    return f"**{shape}**, ({spacing}) mm"


def with_uids(instances: Sequence[Dataset]) -> list[Dataset]:
    """The UIDs that de-identification took away, for the voxels' sake."""
    copies = []
    for instance in instances:
        one = deepcopy(instance)
        one.FrameOfReferenceUID = one.get("FrameOfReferenceUID") or "1.2.3"
        one.StudyInstanceUID = one.get("StudyInstanceUID") or "1.2.4"
        one.SeriesInstanceUID = one.get("SeriesInstanceUID") or "1.2.5"
        if not one.SOPClassUID:
            one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID
            one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID
        copies.append(one)
    return copies


def candidate_stack(real: Real, index: int) -> Stack | None:
    """One candidate volume by itself, assembled as a series that holds no other."""
    wanted = {(p.sop_instance_uid, p.frame) for p in _candidates(real)[index]}
    instances = []
    for one in real.instances:
        frames = [f for uid, f in wanted if uid == one.SOPInstanceUID]
        if frames == [None]:
            instances.append(one)
        elif frames:
            numbers = sorted(f for f in frames if f is not None)
            instances.append(_only(one, numbers))
    try:
        return stack(SourceSeries(SeriesInstanceUID(real.name), tuple(instances)), InputRules())
    except SeriesRejected:
        return None


def _only(instance: Dataset, frames: Sequence[int]) -> Dataset:
    """An enhanced Instance with some of its frames (uncompressed)."""
    one = deepcopy(instance)
    size = len(one.PixelData) // int(one.NumberOfFrames)
    groups = one.PerFrameFunctionalGroupsSequence
    one.PixelData = b"".join(one.PixelData[(n - 1) * size : n * size] for n in frames)
    one.PerFrameFunctionalGroupsSequence = [groups[n - 1] for n in frames]
    one.NumberOfFrames = len(frames)
    return one


def _candidates(real: Real) -> list[tuple]:  # type: ignore[type-arg]
    planes = [plane for one in real.instances for plane in planes_of(one)]
    return [candidate.planes for candidate in split(planes)]


def _in_words(why: str, count: int, fault: str | None) -> str:
    words = f"{count} slice{'s' * (count != 1)}" + f", {why}" * bool(why)
    return without_uids(words + f": {fault}" * bool(fault))


def without_uids(text: str) -> str:
    return re.sub(r" \((without UID|\d+(\.\d+){5,})\)", "", text)


# --- the outside judges


def judged(stacks: Sequence[Stack], grids: Sequence[Grid]) -> str:
    """How many candidate volumes the judge read with the same voxels in patient space."""
    if not grids:
        return "reads nothing"
    shapes = ", ".join(" × ".join(map(str, voxels.shape[::-1])) for _, voxels, _ in grids[:4])
    more = f" and {len(grids) - 4} more" * (len(grids) > 4)
    if not stacks:
        return f"reads {shapes}{more}"
    same = sum(any(is_same(one.volume, grid) for grid in grids) for one in stacks)
    if same == len(stacks):
        return "same voxels" if same == 1 else f"same voxels, all {same}"
    return f"same voxels in {same} of {len(stacks)}; reads {shapes}{more}"


def is_same(volume: Volume, grid: Grid) -> bool:
    """Each voxel centre within 0.01 mm of one of the grid, with the same value."""
    _, voxels, affine = grid
    if volume.array.size != voxels.size:
        return False
    to_grid = np.linalg.inv(affine) @ volume.affine
    indices = np.indices(volume.array.shape).reshape(3, -1)
    exact = to_grid[:3, :3] @ indices + to_grid[:3, 3:]
    nearest = np.rint(exact).astype(int)
    if (nearest < 0).any() or (nearest >= np.asarray(voxels.shape)[:, None]).any():
        return False
    off = np.linalg.norm(affine[:3, :3] @ (exact - nearest), axis=0).max()
    values = voxels[tuple(nearest)]
    ours = volume.array.ravel()
    return bool(off <= POSITION_MM and np.allclose(values, ours, rtol=1e-6, atol=1e-4))


def dcm2niix(paths: Sequence[Path]) -> Iterator[Grid]:
    """Every volume that dcm2niix makes of the files (NIfTI is RAS; Philips scaling as DICOM's)."""
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "in", Path(folder) / "out"
        given.mkdir()
        made.mkdir()
        for number, path in enumerate(paths):
            shutil.copy(path, given / f"{number:04d}.dcm")
        options = ["-f", "x", "-z", "n", "-b", "n", "-p", "n"]
        command = ["dcm2niix", *options, "-o", str(made), str(given)]
        subprocess.run(command, capture_output=True, timeout=120, check=False)
        for path in sorted(made.glob("*.nii")):
            image: Any = nib.load(path)
            voxels = np.asanyarray(image.dataobj)
            if voxels.dtype.names:
                continue  # colour
            affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine
            for number in range(voxels.shape[3] if voxels.ndim > 3 else 1):
                volume = voxels[..., number] if voxels.ndim > 3 else voxels
                yield f"{path.stem} {number}", np.asarray(volume, float), affine


def simple_itk(real: Real, whole: Real) -> Iterator[Grid]:
    """What ImageSeriesReader makes of each candidate's files, in the order of its slices."""
    by_uid = {str(o.SOPInstanceUID): p for o, p in zip(whole.instances, real.paths, strict=True)}
    for planes in _candidates(whole):
        files = list(dict.fromkeys(str(by_uid[plane.sop_instance_uid]) for plane in planes))
        try:
            if len(files) == 1:
                image = sitk.ReadImage(files[0])
            else:
                reader = sitk.ImageSeriesReader()
                reader.SetFileNames(files)
                image = reader.Execute()
        except RuntimeError:
            continue
        if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
            continue
        affine = np.eye(4)
        direction = np.asarray(image.GetDirection()).reshape(3, 3)
        affine[:3, :3] = direction * np.asarray(image.GetSpacing())
        affine[:3, 3] = image.GetOrigin()
        yield "series", np.asarray(sitk.GetArrayFromImage(image), float).transpose(), affine


def rows(root: Path) -> list[str]:
    return [row(real) for real in real_series(root)]


if __name__ == "__main__":
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    print(HEADER)
    print("|" + "---|" * (HEADER.count("|") - 1))
    print("\n".join(rows(Path(sys.argv[1]))))
