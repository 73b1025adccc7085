"""docs/assembly.md says of every real series what becomes of it; it is derived again here."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from node.core.model import InputRules
from node.dicom.assemble import stack
from node.dicom.voxels import modality_frames
from tests.assembly_table import dcm2niix, is_same, real_series, row

PAGE = Path(__file__).parents[2] / "docs" / "assembly.md"

pytestmark = pytest.mark.skipif(not shutil.which("dcm2niix"), reason="needs dcm2niix")


def test_the_page_says_what_is_so_of_every_series(shared_data: Path) -> None:
    written = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line[:2] == "| "]
    assert written[1:] == [row(real) for real in real_series(shared_data / "dicom")]


def test_the_judge_tells_a_shifted_a_flipped_and_a_changed_volume(shared_data: Path) -> None:
    (real,) = real_series(shared_data / "dicom" / "mr_hippocrop_1")
    volume = stack(real.source(), InputRules()).volume
    (grid,) = dcm2niix(real.paths)
    assert is_same(volume, grid)
    name, voxels, affine = grid
    moved = affine.copy()
    moved[0, 3] += 0.02
    assert not is_same(volume, (name, voxels, moved))
    assert not is_same(volume, (name, voxels[::-1], affine))
    changed = voxels.copy()
    changed[3, 4, 5] += 1
    assert not is_same(volume, (name, changed, affine))


def test_nine_transfer_syntaxes_of_one_image_give_the_same_voxels(shared_data: Path) -> None:
    paths = sorted((shared_data / "dicom" / "mr_one_image_many_syntaxes").glob("*.dcm"))
    instances = [dcmread(path) for path in paths]
    assert len({one.file_meta.TransferSyntaxUID for one in instances}) == 7
    planes = [next(modality_frames(one, [0], "the image")) for one in instances]
    assert len(planes) == 9
    assert all(np.array_equal(plane, planes[0]) for plane in planes)
    assert planes[0].any()


def test_a_tilted_series_is_resampled_onto_the_grid_and_to_the_values_of_dcm2niix(
    shared_data: Path,
) -> None:
    (real,) = real_series(shared_data / "dicom" / "ct_philips_tilt")
    made = stack(real.source(), InputRules(resample=True)).volume
    _, voxels, affine = next(grid for grid in dcm2niix(real.paths) if "Tilt" in grid[0])
    to_grid = np.linalg.inv(affine) @ made.affine
    assert voxels.size == made.array.size
    corners = np.array(np.meshgrid(*((0, n - 1) for n in made.array.shape), [1])).reshape(4, -1)
    exact = (to_grid @ corners)[:3]
    off = np.linalg.norm(affine[:3, :3] @ (exact - np.rint(exact)), axis=0)
    assert off.max() <= 0.01
    indices = np.rint(to_grid[:3, :3] @ np.indices(made.array.shape).reshape(3, -1))
    theirs = voxels[tuple((indices + np.rint(to_grid[:3, 3:])).astype(int))]
    difference = np.abs(made.array.ravel() - theirs).reshape(made.array.shape)
    # Theirs are whole numbers, and pad with another value where a slice begins and ends.
    assert np.mean(difference > 1.0) < 0.002
    assert difference[:, 90:510].max() <= 1.0
