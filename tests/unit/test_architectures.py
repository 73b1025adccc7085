"""Every network that dynamic_network_architectures offers to plans.json is taken in and run."""

import importlib
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from node.core.errors import ConfigError
from node.inference.adding.add import add_model
from node.inference.engine import InProcessEngine
from node.inference.model import load_model
from node.inference.network import build_network, load_weights, read_checkpoint
from node.inference.plans import read_plan
from tests.model_factory import make_model_folder, noise_volume

pytestmark = pytest.mark.slow

PACKAGE = "dynamic_network_architectures.architectures"
IMPORTED = ["conv_op", "norm_op", "dropout_op", "nonlin"]
COMMON = {
    "n_stages": 2,
    "features_per_stage": [4, 8],
    "conv_op": "torch.nn.modules.conv.Conv3d",
    "kernel_sizes": [[3, 3, 3], [3, 3, 3]],
    "strides": [[1, 1, 1], [2, 2, 2]],
    "n_conv_per_stage_decoder": [1],
    "conv_bias": True,
    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
    "norm_op_kwargs": {"eps": 1e-05, "affine": True},
    "dropout_op": None,
    "dropout_op_kwargs": None,
    "nonlin": "torch.nn.LeakyReLU",
    "nonlin_kwargs": {"inplace": True},
}
NETWORKS: dict[str, dict[str, Any]] = {
    "unet.PlainConvUNet": {**COMMON, "n_conv_per_stage": [1, 1]},
    "unet.ResidualEncoderUNet": {**COMMON, "n_blocks_per_stage": [1, 1]},
    "unet.ResidualUNet": {**COMMON, "n_blocks_per_stage": [1, 1]},
}
TINY_PRIMUS = {
    "embed_dim": 24,
    "patch_embed_size": [8, 8, 8],
    "eva_depth": 1,
    "eva_numheads": 2,
    "input_shape": [16, 16, 16],
}


def described(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {
        "network_class_name": f"{PACKAGE}.{name}",
        "arch_kwargs": arguments,
        "_kw_requires_import": IMPORTED if "conv_op" in arguments else [],
    }


def trained(folder: Path, architecture: dict[str, Any]) -> Path:
    """A model folder of that network, with random weights and two labels."""
    make_model_folder(folder)
    plans = json.loads((folder / "plans.json").read_text())
    plans["configurations"]["3d_fullres"]["architecture"] = architecture
    (folder / "plans.json").write_text(json.dumps(plans))
    path = folder / "fold_0" / "checkpoint_final.pth"
    network = build_network(architecture, 1, 3, folder / "plans.json")
    checkpoint = torch.load(path, weights_only=False)
    torch.save({**checkpoint, "network_weights": network.state_dict()}, path)
    return folder


def scores(folder: Path, checkpoint: str) -> torch.Tensor:
    plan = read_plan(folder, "3d_fullres")
    network = build_network(plan.architecture, 1, plan.heads.count, folder / "plans.json")
    path = folder / "fold_0" / checkpoint
    load_weights(network, read_checkpoint(path), path)
    patch = torch.randn((1, 1, 16, 16, 16), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        answer: torch.Tensor = network(patch)
    return answer


def require_same_answer(source: Path, models: Path, name: str) -> None:
    added = add_model(source, models, "m")
    assert added.architecture == name
    before = scores(source, "checkpoint_final.pth")
    assert before.shape == (1, 3, 16, 16, 16)
    assert torch.equal(scores(added.model.folder, "checkpoint_final.safetensors"), before)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_the_package_is_taken_in_and_answers_as_before(
    tmp_path: Path, name: str
) -> None:
    source = trained(tmp_path / "source", described(name, NETWORKS[name]))
    require_same_answer(source, tmp_path / "models", name.partition(".")[2])


@pytest.mark.parametrize("name", ["Primus", "PrimusV2"])
def test_a_transformer_of_the_package_is_taken_in(tmp_path: Path, name: str) -> None:
    try:
        importlib.import_module(f"{PACKAGE}.primus")
    except RuntimeError as error:  # timm needs a torchvision of torch's own build
        pytest.skip(f"primus cannot be imported: {error}")
    source = trained(tmp_path / "source", described(f"primus.{name}", TINY_PRIMUS))
    require_same_answer(source, tmp_path / "models", name)


def test_no_network_for_segmentation_is_left_out() -> None:
    """The package's others take no number of classes, so that plans cannot describe them."""
    module = importlib.import_module(f"{PACKAGE}.unet")
    offered = {
        f"unet.{name}"
        for name, found in vars(module).items()
        if inspect.isclass(found)
        and found.__module__ == module.__name__
        and {"input_channels", "num_classes"} <= set(inspect.signature(found).parameters)
    }
    assert offered == set(NETWORKS)


def test_a_class_of_the_package_that_classifies_is_refused(tmp_path: Path) -> None:
    source = make_model_folder(tmp_path / "source")
    plans = json.loads((source / "plans.json").read_text())
    plans["configurations"]["3d_fullres"]["architecture"] = described("vgg.VGG16", {})
    (source / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(ConfigError, match="describes no network"):
        add_model(source, tmp_path / "models")


def test_a_network_that_scores_no_voxels_is_refused(tmp_path: Path) -> None:
    """One stage less in the decoder than strides: answers are smaller than the patch."""
    arguments = {**NETWORKS["unet.PlainConvUNet"], "strides": [[2, 2, 2], [2, 2, 2]]}
    source = trained(tmp_path / "source", described("unet.PlainConvUNet", arguments))
    with pytest.raises(ConfigError, match="it segments nothing"):
        add_model(source, tmp_path / "models")


@pytest.mark.filterwarnings("ignore:Detected old nnU-Net plans format")
@pytest.mark.parametrize("kind", ["PlainConvUNet", "ResidualEncoderUNet"])
def test_plans_of_the_older_format_are_understood(tmp_path: Path, kind: str) -> None:
    """nnU-Net 2.0 to 2.3 wrote numbers in place of an architecture; TotalSegmentator has such."""
    blocks = "n_conv_per_stage" if kind == "PlainConvUNet" else "n_blocks_per_stage"
    architecture = described(f"unet.{kind}", {**COMMON, blocks: [2, 2]})
    source = trained(tmp_path / "source", architecture)
    plans = json.loads((source / "plans.json").read_text())
    settings = plans["configurations"]["3d_fullres"]
    del settings["architecture"]
    settings |= {
        "UNet_class_name": kind,
        "UNet_base_num_features": 4,
        "unet_max_num_features": 320,
        "n_conv_per_stage_encoder": [2, 2],
        "n_conv_per_stage_decoder": [1],
        "num_pool_per_axis": [1, 1, 1],
        "pool_op_kernel_sizes": [[1, 1, 1], [2, 2, 2]],
        "conv_kernel_sizes": [[3, 3, 3], [3, 3, 3]],
    }
    (source / "plans.json").write_text(json.dumps(plans))
    require_same_answer(source, tmp_path / "models", kind)


def test_a_model_that_was_added_labels_as_before(tmp_path: Path) -> None:
    source = make_model_folder(tmp_path / "source", folds=("0", "1"), mirrors=(0, 1, 2))
    added = add_model(source, tmp_path / "models", "m").model
    volume = noise_volume((20, 18, 22), (1.0, 1.0, 1.0))
    engine = InProcessEngine("cpu", 1)
    before = engine.segment([volume], load_model("source", source)).array
    assert len(set(before.ravel().tolist())) == 3
    assert (engine.segment([volume], added).array == before).all()
