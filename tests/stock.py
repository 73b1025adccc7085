"""nnU-Net's own predictor, the oracle of equality."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from numpy.typing import NDArray

from node.core.model import Model, Profile
from node.inference.folder import read_json
from node.inference.network import build_network


def stock_labels(
    model: Model, array: NDArray[np.float32], spacing: Sequence[float]
) -> NDArray[np.generic]:
    """What nnU-Net's own predictor makes of an array (c, z, y, x) with spacing (z, y, x) mm.

    Of a cascade, the second stage on what the first one found; of the profile fast, no mirrors.
    """
    labels: NDArray[np.generic] = _predicted(model, array, spacing, probabilities=False)
    return labels


def stock_probabilities(
    model: Model, array: NDArray[np.float32], spacing: Sequence[float]
) -> NDArray[np.float32]:
    """Its probabilities (head, z, y, x) of the same."""
    found: NDArray[np.float32] = _predicted(model, array, spacing, probabilities=True)[1]
    return found


def _predicted(
    model: Model, array: NDArray[np.float32], spacing: Sequence[float], *, probabilities: bool
) -> Any:
    previous = model.previous_stage
    before = stock_labels(previous, array, spacing) if previous else None
    plans = PlansManager(read_json(model.folder / "plans.json"))
    dataset = read_json(model.folder / "dataset.json")
    configuration = plans.get_configuration(model.configuration)
    paths = [model.folder / f"fold_{fold}" / model.checkpoint_name for fold in model.folds]
    trained = [torch.load(path, weights_only=False) for path in paths]
    network = build_network(
        configuration.configuration["architecture"],
        determine_num_input_channels(plans, configuration, dataset),
        plans.get_label_manager(dataset).num_segmentation_heads,
        model.folder,
    )
    mirrors = model.profile is Profile.EXACT
    predictor = nnUNetPredictor(device=torch.device("cpu"), use_mirroring=mirrors, allow_tqdm=False)
    predictor.manual_initialization(
        network,
        plans,
        configuration,
        [checkpoint["network_weights"] for checkpoint in trained],
        dataset,
        "",
        trained[0]["inference_allowed_mirroring_axes"],
    )
    return predictor.predict_single_npy_array(
        array,
        {"spacing": list(spacing)},
        None if before is None else before[None].astype(np.int16),
        save_or_return_probabilities=probabilities,
    )
