"""nnU-Net v2 model folders with small random networks, as training would leave them.

With random weights and no mirrors a network answers a flipped volume quite differently, which a
trained one with mirrors does not: what a test of orientation needs.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from node.core.volume import Affine, Volume
from node.inference.network import build_network

HIPPOCAMPUS = Path(__file__).parents[1] / "config" / "models" / "hippocampus"  # the real one
TWO_LABELS = {"background": 0, "one": 1, "two": 2}
CONFIGURATION = "3d_fullres"
FIRST_STAGE, SECOND_STAGE = "3d_lowres", "3d_cascade_fullres"


def make_model_folder(
    path: Path,
    *,
    patch: tuple[int, ...] = (16, 16, 16),
    transpose_forward: tuple[int, int, int] = (0, 1, 2),
    mirrors: Sequence[int] | None = None,
    labels: Mapping[str, Any] = TWO_LABELS,
    regions_class_order: Sequence[int] | None = None,
    channels: int = 1,
    spacing: tuple[float, ...] = (1.0, 1.0, 1.0),
    folds: Sequence[str] = ("0",),
    features: tuple[int, ...] = (4, 8),
    seed: int = 0,
    ct_intensities: Mapping[str, float] | None = None,
    balanced_on: NDArray[np.float32] | None = None,
    residual: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Writes plans.json, dataset.json and a checkpoint per fold; returns `path`.

    patch and spacing (mm) have the plans' axis order, after transpose_forward. On noise, or on
    the patches (number, channel, …) of `balanced_on` as the network sees them, every label is
    about as frequent as every other. ct_intensities: for CTNormalization in place of the z-score.
    residual: a residual encoder. settings: more of the configuration in plans.json.
    """
    plans = _plans(patch, spacing, transpose_forward, channels, features)
    configuration = plans["configurations"][CONFIGURATION]
    if residual:
        configuration["architecture"] = _residual(configuration["architecture"])
    configuration.update(settings or {})
    if ct_intensities:
        plans["foreground_intensity_properties_per_channel"]["0"] = dict(ct_intensities)
        plans["configurations"][CONFIGURATION]["normalization_schemes"] = ["CTNormalization"]
    dataset: dict[str, Any] = {
        "channel_names": {str(number): f"channel {number}" for number in range(channels)},
        "labels": dict(labels),
        "file_ending": ".nii.gz",
    }
    if regions_class_order:
        dataset["regions_class_order"] = list(regions_class_order)
    path.mkdir(parents=True, exist_ok=True)
    (path / "plans.json").write_text(json.dumps(plans))
    (path / "dataset.json").write_text(json.dumps(dataset))
    architecture = configuration["architecture"]
    heads = len([name for name in labels if name != "ignore"]) - bool(regions_class_order)
    for number, fold in enumerate(folds):
        example = None if balanced_on is None else torch.from_numpy(balanced_on)
        weights = _balanced_weights(architecture, channels, heads, patch, seed + number, example)
        checkpoint = _checkpoint(weights, plans, dataset, fold, mirrors)
        (path / f"fold_{fold}").mkdir(exist_ok=True)
        torch.save(checkpoint, path / f"fold_{fold}" / "checkpoint_final.pth")
    return path


def make_cascade(
    path: Path,
    *,
    patch: tuple[int, ...] = (16, 16, 16),
    first_patch: tuple[int, ...] = (16, 16, 16),
    spacing: tuple[float, ...] = (1.0, 1.0, 1.0),
    first_spacing: tuple[float, ...] = (2.0, 2.0, 2.0),
    labels: Mapping[str, Any] = TWO_LABELS,
    channels: int = 1,
    seed: int = 0,
    **both: Any,
) -> Path:
    """Both stages under nnU-Net's names, side by side in `path`; returns the second's folder.

    The second network takes the channels, then one of 0 and 1 for each foreground label that the
    first found. As nnU-Net plans it: one plans.json for both, and the second inherits from
    3d_fullres. `both`: as make_model_folder takes it.
    """
    named = [path / f"nnUNetTrainer__nnUNetPlans__{stage}" for stage in (FIRST_STAGE, SECOND_STAGE)]
    inputs = channels + len(_foreground(labels))
    make_model_folder(
        named[0], patch=first_patch, spacing=first_spacing, labels=labels, channels=channels,
        seed=seed, **both,
    )  # fmt: skip
    make_model_folder(
        named[1], patch=patch, spacing=spacing, labels=labels, channels=inputs,
        seed=seed + 100, **both,
    )  # fmt: skip
    low, full = (json.loads((folder / "plans.json").read_text()) for folder in named)
    stages = full["configurations"]
    for key in ("normalization_schemes", "use_mask_for_norm"):
        stages[CONFIGURATION][key] = low["configurations"][CONFIGURATION][key]
    stages[FIRST_STAGE] = {**low["configurations"][CONFIGURATION], "next_stage": SECOND_STAGE}
    stages[SECOND_STAGE] = {"inherits_from": CONFIGURATION, "previous_stage": FIRST_STAGE}
    plans = {**low, "configurations": stages}
    dataset = json.loads((named[0] / "dataset.json").read_text())
    for folder, configuration in zip(named, (FIRST_STAGE, SECOND_STAGE), strict=True):
        _make_stage(folder, configuration, plans, dataset)
    return named[1]


def _foreground(labels: Mapping[str, Any]) -> set[int]:
    """All values but background and ignore, those within regions too."""
    known = [value for name, value in labels.items() if name not in ("background", "ignore")]
    return {one for value in known for one in (value if isinstance(value, list) else [value])}


def _make_stage(
    folder: Path, configuration: str, plans: dict[str, Any], dataset: dict[str, Any]
) -> None:
    """Makes a folder of make_model_folder one stage of a cascade; its weights stay."""
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    for path in folder.glob("fold_*/checkpoint_final.pth"):
        checkpoint = torch.load(path, weights_only=False)
        told = {"plans": plans, "configuration": configuration, "dataset_json": dataset}
        checkpoint["init_args"].update(told)
        torch.save(checkpoint, path)


def noise_volume(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    seed: int = 0,
    channel: int = 0,
) -> Volume:
    """Smooth noise on an axial grid: slices grow to the head, rows to the back, columns left."""
    noise = np.random.default_rng([seed, channel]).normal(size=shape)
    for axis in range(3):
        noise = noise + np.roll(noise, 1, axis)
    return Volume(noise.astype(np.float32), axial_affine(spacing), "1.2.3")


def axial_affine(
    spacing: tuple[float, float, float], origin: tuple[float, float, float] = (-20.0, 30.0, 40.0)
) -> Affine:
    """(slice, row, column) → LPS mm, spacing in the same order; origin LPS."""
    affine: NDArray[np.float64] = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2] = spacing
    affine[:, 3] = (*origin, 1.0)
    return affine


def _plans(
    patch: tuple[int, ...],
    spacing: tuple[float, ...],
    transpose_forward: tuple[int, int, int],
    channels: int,
    features: tuple[int, ...],
) -> dict[str, Any]:
    return {
        "dataset_name": "Dataset999_Random",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": list(transpose_forward),
        "transpose_backward": [int(axis) for axis in np.argsort(transpose_forward)],
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(c): {} for c in range(channels)},
        "configurations": {
            CONFIGURATION: {
                "preprocessor_name": "DefaultPreprocessor",
                "patch_size": list(patch),
                "spacing": list(spacing),
                "normalization_schemes": ["ZScoreNormalization"] * channels,
                "use_mask_for_norm": [False] * channels,
                **_resampling("data", is_seg=False, order=3),
                **_resampling("seg", is_seg=True, order=1),
                **_resampling("probabilities", is_seg=False, order=1),
                "architecture": _architecture(len(patch), features),
            }
        },
    }


def _resampling(what: str, *, is_seg: bool, order: int) -> dict[str, Any]:
    arguments = {"is_seg": is_seg, "order": order, "order_z": 0, "force_separate_z": None}
    return {
        f"resampling_fn_{what}": "resample_data_or_seg_to_shape",
        f"resampling_fn_{what}_kwargs": arguments,
    }


def _architecture(dimensions: int, features: tuple[int, ...]) -> dict[str, Any]:
    stages = len(features)
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": list(features),
            "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
            "kernel_sizes": [[3] * dimensions] * stages,
            "strides": [[1] * dimensions] + [[2] * dimensions] * (stages - 1),
            "n_conv_per_stage": [2] * stages,
            "n_conv_per_stage_decoder": [2] * (stages - 1),
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def _residual(plain: dict[str, Any]) -> dict[str, Any]:
    """The same sizes with a residual encoder, as nnU-Net's ResEnc presets plan it."""
    arguments = dict(plain["arch_kwargs"])
    arguments["n_blocks_per_stage"] = arguments.pop("n_conv_per_stage")
    name = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
    return {**plain, "network_class_name": name, "arch_kwargs": arguments}


def _balanced_weights(
    architecture: Mapping[str, Any],
    channels: int,
    heads: int,
    patch: tuple[int, ...],
    seed: int,
    example: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """Random weights whose heads have the same mean on noise, so that each label wins somewhere.

    example: patches to take in place of noise.
    """
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(seed)
        network = build_network(architecture, channels, heads, Path("plans.json"))
        logits = network(torch.randn(1, channels, *patch) if example is None else example)
        weights: dict[str, torch.Tensor] = dict(network.state_dict())
        last = max(name for name in weights if "seg_layers" in name and name.endswith("bias"))
        weights[last] -= logits.transpose(0, 1).flatten(1).mean(1)
        return weights


def _checkpoint(
    weights: dict[str, torch.Tensor],
    plans: dict[str, Any],
    dataset: dict[str, Any],
    fold: str,
    mirrors: Sequence[int] | None,
) -> dict[str, Any]:
    """As nnUNetTrainer.save_checkpoint writes it."""
    return {
        "network_weights": weights,
        "optimizer_state": {"state": {}, "param_groups": []},
        "grad_scaler_state": None,
        "logging": {"ema_fg_dice": [np.float32(0.5)]},
        "_best_ema": np.float64(0.5),
        "current_epoch": 1,
        "init_args": {
            "plans": plans,
            "configuration": CONFIGURATION,
            "fold": fold,
            "dataset_json": dataset,
            "device": torch.device("cpu"),
        },
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": tuple(mirrors) if mirrors is not None else None,
    }
