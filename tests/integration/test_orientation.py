"""One patient, many grids: the labels must lie in the same place whichever way it was scanned."""

import shutil
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from node.core.model import Model
from node.core.volume import Volume, axis_map
from node.inference.model import load_model
from node.inference.segmenter import NnunetSegmenter
from tests.images import affine_of, axial_array, image_of, turned, volume_of
from tests.model_factory import HIPPOCAMPUS, make_model_folder, noise_volume

# Which way column, row and slice number grow: axial, axial from the feet's side, sagittal, coronal.
ACQUISITIONS = {"axial": "LPS", "axial reversed": "LPI", "sagittal": "PIR", "coronal": "LIP"}
MORE = ["RAS", "SAR", "ASL", "IRP"]
LETTERS = [
    "".join(letters) for axes in permutations(("RL", "AP", "SI")) for letters in product(*axes)
]


def dice(one: NDArray[np.generic], other: NDArray[np.generic], label: int) -> float:
    both = np.count_nonzero((one == label) & (other == label))
    return 2 * both / (np.count_nonzero(one == label) + np.count_nonzero(other == label))


@pytest.fixture
def hippocampus(tmp_path: Path) -> Model:
    """The real model without its mirrors, which make it nearly blind to flips."""
    folder = Path(shutil.copytree(HIPPOCAMPUS, tmp_path / "hippocampus"))
    path = folder / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(path, weights_only=False)
    checkpoint["inference_allowed_mirroring_axes"] = None
    torch.save(checkpoint, path)
    return load_model("hippocampus", folder)


def test_a_real_hippocampus_is_found_in_the_same_place_however_it_was_acquired(
    hippocampus: Model, shared_data: Path
) -> None:
    path = shared_data / "hippocampus" / "imagesTr" / "hippocampus_001_0000.nii.gz"
    volume = volume_of(sitk.ReadImage(str(path)))
    segmenter = NnunetSegmenter(hippocampus)
    found = {
        name: axial_array(segmenter.segment([turned(volume, letters)]))
        for name, letters in ACQUISITIONS.items()
    }
    assert [np.count_nonzero(found["axial"] == label) > 1000 for label in (1, 2)] == [True, True]
    for labels in found.values():
        np.testing.assert_array_equal(labels, found["axial"])


@pytest.mark.parametrize(
    ("transpose_forward", "orientation"),
    [((0, 1, 2), "RAS"), ((1, 0, 2), "LPS"), ((2, 0, 1), "SPR")],
)
def test_a_network_that_sees_flips_gives_the_same_labels_on_every_grid(
    transpose_forward: tuple[int, int, int], orientation: str, tmp_path: Path
) -> None:
    folder = make_model_folder(
        tmp_path / "m",
        patch=(8, 16, 16),
        spacing=(2.4, 1.0, 1.3),
        transpose_forward=transpose_forward,
    )
    segmenter = NnunetSegmenter(load_model("m", folder, orientation))
    volume = noise_volume((9, 22, 17), (2.2, 1.1, 1.4))
    first = axial_array(segmenter.segment([volume]))
    assert min(np.bincount(first.ravel())) > 0.05 * first.size  # every label has its part
    for letters in [*ACQUISITIONS.values(), *MORE]:
        grid = turned(volume, letters)
        label_map = segmenter.segment([grid])
        assert label_map.array.shape == grid.array.shape
        np.testing.assert_array_equal(axial_array(label_map), first)


def test_the_wrong_orientation_gives_other_labels(tmp_path: Path) -> None:
    """Or the test above would prove nothing."""
    folder = make_model_folder(tmp_path / "m")
    volume = noise_volume((16, 22, 18), (1.0, 1.0, 1.0))
    right, wrong, native = (
        NnunetSegmenter(load_model("m", folder, orientation)).segment([volume]).array
        for orientation in ("RAS", "LAS", "native")
    )
    for label in (1, 2):
        assert dice(right, wrong, label) < 0.9
        assert dice(right, native, label) < 0.9


def test_native_leaves_the_grid_as_it_was_acquired(tmp_path: Path) -> None:
    segmenter = NnunetSegmenter(load_model("m", make_model_folder(tmp_path / "m"), "native"))
    volume = noise_volume((16, 18, 20), (1.0, 1.0, 1.0))
    sagittal = Volume(volume.array, turned(volume, "PIR").affine, "1.2.3")  # same array
    one, other = segmenter.segment([volume]), segmenter.segment([sagittal])
    np.testing.assert_array_equal(one.array, other.array)


@st.composite
def grids(draw: st.DrawFn) -> sitk.Image:
    """A small image in any of the 48 orientations, tilted by up to 35° about any axis."""
    shape = [draw(st.integers(1, 5)) for _ in range(3)]
    image = sitk.GetImageFromArray(np.arange(np.prod(shape), dtype=np.float32).reshape(shape))
    image.SetSpacing([draw(st.floats(0.3, 6.0)) for _ in range(3)])
    image.SetOrigin([draw(st.floats(-300.0, 300.0)) for _ in range(3)])
    axis = [draw(st.floats(0.01, 1.0)), *(draw(st.floats(-1.0, 1.0)) for _ in range(2))]
    tilt = sitk.VersorTransform(axis, np.deg2rad(draw(st.floats(0.0, 35.0)))).GetMatrix()
    straight: sitk.Image = sitk.DICOMOrient(image, draw(st.sampled_from(LETTERS)))
    direction = np.reshape(tilt, (3, 3)) @ np.reshape(straight.GetDirection(), (3, 3))
    straight.SetDirection(direction.ravel().tolist())
    return straight


@settings(max_examples=200, deadline=None)
@given(image=grids(), letters=st.sampled_from(LETTERS))
def test_grids_are_turned_as_simpleitk_turns_them(image: sitk.Image, letters: str) -> None:
    volume = volume_of(image)
    turn = axis_map(volume.affine, letters)
    ours, theirs = turn.apply(volume), sitk.DICOMOrient(image, letters)
    np.testing.assert_array_equal(ours.array, sitk.GetArrayFromImage(theirs))
    np.testing.assert_allclose(ours.affine, affine_of(theirs), atol=1e-9)
    np.testing.assert_array_equal(turn.undo(ours.array), volume.array)
    assert image_of(ours).GetSize() == theirs.GetSize()
