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
) -> Path:
    """Writes plans.json, dataset.json and a checkpoint per fold; returns `path`.

    patch and spacing (mm) have the plans' axis order, after transpose_forward. On noise, every
    label is about as frequent as every other.
    """
    plans = _plans(patch, spacing, transpose_forward, channels, features)
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
    architecture = _architecture(len(patch), features)
    heads = len([name for name in labels if name != "ignore"]) - bool(regions_class_order)
    for number, fold in enumerate(folds):
        weights = _balanced_weights(architecture, channels, heads, patch, seed + number)
        checkpoint = _checkpoint(weights, plans, dataset, fold, mirrors)
        (path / f"fold_{fold}").mkdir(exist_ok=True)
        torch.save(checkpoint, path / f"fold_{fold}" / "checkpoint_final.pth")
    return path


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


def _balanced_weights(
    architecture: Mapping[str, Any], channels: int, heads: int, patch: tuple[int, ...], seed: int
) -> dict[str, torch.Tensor]:
    """Random weights whose heads have the same mean on noise, so that each label wins somewhere."""
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(seed)
        network = build_network(architecture, channels, heads, Path("plans.json"))
        logits = network(torch.randn(1, channels, *patch))[0]
        weights: dict[str, torch.Tensor] = dict(network.state_dict())
        last = max(name for name in weights if "seg_layers" in name and name.endswith("bias"))
        weights[last] -= logits.flatten(1).mean(1)
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
