"""The predictor against nnU-Net itself, and against files that nobody should have to trust."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from node.core.errors import ConfigError, Fatal, SeriesRejected
from node.core.volume import Volume
from node.inference.model import load_model
from node.inference.network import build_network, load_weights, read_checkpoint
from node.inference.segmenter import NnunetSegmenter
from tests.images import volume_of
from tests.model_factory import HIPPOCAMPUS, axial_affine, make_model_folder, noise_volume
from tests.stock import stock_labels


def architecture_of(folder: Path) -> dict[str, Any]:
    plans = json.loads((folder / "plans.json").read_text())
    found: dict[str, Any] = plans["configurations"]["3d_fullres"]["architecture"]
    return found


def test_a_dicom_volume_gets_the_labels_nnunet_gives_the_nifti_it_came_from(
    shared_data: Path,
) -> None:
    model = load_model("hippocampus", HIPPOCAMPUS)
    path = shared_data / "hippocampus" / "imagesTr" / "hippocampus_001_0000.nii.gz"
    stored = sitk.ReadImage(str(path))
    as_trained = sitk.GetArrayFromImage(stored).astype(np.float32)[None]
    expected = stock_labels(model, as_trained, stored.GetSpacing()[::-1])

    axial = volume_of(sitk.DICOMOrient(stored, "LPS"))
    found = NnunetSegmenter(model).segment([axial])

    assert np.unique(found.array).tolist() == [0, 1, 2]
    assert found.array.dtype == np.uint8
    assert np.array_equal(found.affine, axial.affine)
    assert found.frame_of_reference_uid == axial.frame_of_reference_uid
    np.testing.assert_array_equal(found.array[:, ::-1, ::-1], expected)  # stored with x, y reversed


def test_more_than_255_labels_fit_in_the_label_map(tmp_path: Path) -> None:
    labels = {"background": 0, **{f"label {number}": number for number in range(1, 300)}}
    model = load_model("m", make_model_folder(tmp_path / "m", labels=labels))
    found = NnunetSegmenter(model).segment([noise_volume((16, 16, 16), (1.0, 1.0, 1.0))]).array
    assert found.dtype == np.uint16
    assert found.max() > 255


def test_noise_in_the_affine_does_not_decide_how_nnunet_resamples(tmp_path: Path) -> None:
    """nnU-Net treats a grid apart where its spacings' ratio is above 3, and asks for equality."""
    model = load_model("m", make_model_folder(tmp_path / "m"))
    segmenter = NnunetSegmenter(model)
    exact = noise_volume((6, 20, 20), (3.0, 1.0, 1.0))
    noisy = Volume(exact.array, axial_affine((3.0 + 4e-9, 1.0, 1.0 - 4e-9)), "1.2.3")
    np.testing.assert_array_equal(
        segmenter.segment([exact]).array, segmenter.segment([noisy]).array
    )


def test_the_warm_up_leaves_the_mirrors_as_they_were(tmp_path: Path) -> None:
    model = load_model("m", make_model_folder(tmp_path / "m", mirrors=(0, 1, 2)))
    segmenter, volume = NnunetSegmenter(model), noise_volume((16, 16, 16), (1.0, 1.0, 1.0))
    before = segmenter.segment([volume]).array
    segmenter.warm_up()
    np.testing.assert_array_equal(segmenter.segment([volume]).array, before)


def test_nothing_is_printed_and_no_trainer_is_imported(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    segmenter = NnunetSegmenter(load_model("m", make_model_folder(tmp_path / "m")))
    segmenter.segment([noise_volume((16, 16, 16), (1.0, 1.0, 1.0))])
    assert capfd.readouterr().out == ""
    assert [name for name in sys.modules if "nnUNetTrainer" in name] == []


def test_input_that_the_network_must_not_see_is_refused(tmp_path: Path) -> None:
    segmenter = NnunetSegmenter(load_model("m", make_model_folder(tmp_path / "m", channels=2)))
    good = noise_volume((16, 16, 16), (1.0, 1.0, 1.0))
    holed = Volume(np.where(good.array > 1, np.nan, good.array), good.affine, "1.2.3")
    elsewhere = noise_volume((16, 16, 16), (1.0, 1.0, 1.1))
    with pytest.raises(SeriesRejected, match="not all finite"):
        segmenter.segment([good, holed])
    with pytest.raises(ValueError, match="takes 2 channels, not 1"):
        segmenter.segment([good])
    with pytest.raises(ValueError, match="on one grid"):
        segmenter.segment([good, elsewhere])


def test_a_model_whose_files_have_changed_is_not_run_under_its_old_fingerprint(
    tmp_path: Path,
) -> None:
    model = load_model("m", make_model_folder(tmp_path / "m", seed=1))
    make_model_folder(tmp_path / "m", seed=2)
    with pytest.raises(Fatal, match="have changed since it was loaded; restart the node"):
        NnunetSegmenter(model)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_cuda_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    model = load_model("m", make_model_folder(tmp_path / "m"))
    with pytest.raises(ConfigError, match='device = "cuda:1", but torch sees 0 CUDA devices'):
        NnunetSegmenter(model, "cuda:1")


def test_a_checkpoint_is_read_as_training_left_it(shared_models: Path) -> None:
    path = shared_models / "hippocampus" / "fold_0" / "checkpoint_final.pth"
    checkpoint = read_checkpoint(path)
    assert (checkpoint.mirror_axes, checkpoint.trainer) == ((0, 1, 2), "nnUNetTrainer")
    assert sum(weight.numel() for weight in checkpoint.weights.values()) > 1_400_000


def test_a_checkpoint_that_would_run_code_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "was run"

    class Hostile:
        def __reduce__(self) -> Any:
            return Path.touch, (mark,)

    torch.save({"network_weights": {}, "logging": Hostile()}, tmp_path / "hostile.pth")
    with pytest.raises(ConfigError, match=r"hostile\.pth: refused: .*which could run code"):
        read_checkpoint(tmp_path / "hostile.pth")
    assert not mark.exists()


def test_a_checkpoint_may_log_any_numpy_number_and_array(tmp_path: Path) -> None:
    numbers = [np.float16(1), np.float64(1), np.int64(1), np.bool_(True), np.arange(3)]
    torch.save({"network_weights": {}, "logging": numbers}, tmp_path / "c.pth")
    assert read_checkpoint(tmp_path / "c.pth").weights == {}


def test_wrappers_names_are_taken_off_the_weights(tmp_path: Path) -> None:
    weight = torch.ones(1)
    names = ["module.a.weight", "_orig_mod.module.b.module.weight"]
    torch.save({"network_weights": dict.fromkeys(names, weight)}, tmp_path / "c.pth")
    assert list(read_checkpoint(tmp_path / "c.pth").weights) == ["a.weight", "b.module.weight"]


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    small = make_model_folder(tmp_path / "small")
    large = make_model_folder(tmp_path / "large", features=(4, 16))
    path = large / "fold_0" / "checkpoint_final.pth"
    network = build_network(architecture_of(small), 1, 3, small / "plans.json")
    with pytest.raises(ConfigError, match="does not fit the network"):
        load_weights(network, read_checkpoint(path), path)


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "torch.hub.load",
        "torch.nn.modules.module.warnings.sys.exit",
        "torch.nn.functional.conv3d",
        "dynamic_network_architectures.architectures.unet.torch.load",
        "node.inference.segmenter.NnunetSegmenter",
        ["torch.nn.Conv3d"],
    ],
)
@pytest.mark.parametrize("key", ["network_class_name", "conv_op"])
def test_plans_that_name_anything_but_networks_are_refused(
    key: str, name: object, tmp_path: Path
) -> None:
    architecture = architecture_of(make_model_folder(tmp_path / "m"))
    holder = architecture if key in architecture else architecture["arch_kwargs"]
    holder[key] = name
    with pytest.raises(ConfigError, match="refused: the architecture names"):
        build_network(architecture, 1, 3, tmp_path / "plans.json")


def test_plans_that_describe_no_network_are_refused(tmp_path: Path) -> None:
    architecture = architecture_of(make_model_folder(tmp_path / "m"))
    architecture["arch_kwargs"]["strides"] = [[1, 1, 1]]
    with pytest.raises(ConfigError, match="describes no network"):
        build_network(architecture, 1, 3, tmp_path / "plans.json")
