"""The Segmenter that runs nnU-Net v2 itself: one model, built once, kept warm.

Loads torch and nnunetv2, so only the worker process and `segnode predict` import it; call
environment.prepare() before.
"""

import contextlib
import io
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor, tqdm
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from numpy.typing import NDArray

from node.core.errors import ConfigError, Fatal, SeriesRejected
from node.core.model import Model, Progress, Tell, tell_nobody
from node.core.volume import LabelMap, Volume, axis_map
from node.inference.environment import cores
from node.inference.folder import DATASET, PLANS, checkpoint_path, fingerprint, read_json
from node.inference.network import build_network, load_weights, read_checkpoint

# Noise in direction cosines must not decide nnU-Net's `spacing ratio > 3` and `spacings equal`.
_SPACING_DECIMALS = 6  # of mm


_SMALL_PATCH = 2**18  # voxels


@dataclass(frozen=True, eq=False)
class Prepared:
    volumes: tuple[Volume, ...]


@dataclass(frozen=True, eq=False)
class Predicted:
    label_map: LabelMap


class PredictionFailed(Exception):
    """The network's computation failed, and not for want of memory."""


class NnunetSegmenter:
    """One Model's Segmenter.

    device: "auto", "cpu", "cuda" or "cuda:N". threads: 0 takes all cores. Raises ConfigError
    where the model or the device cannot be used, Fatal where the model's files have changed since
    it was loaded.
    """

    def __init__(
        self,
        model: Model,
        device: str = "auto",
        threads: int = 0,
        backend: str = "auto",
        cache: Path | None = None,
    ) -> None:
        _refuse_changed_files(model)
        torch.set_num_threads(cores(threads))
        self._model = model
        tqdm.set_lock(threading.RLock())  # its own is a semaphore that outlives a killed process
        with _silence():
            self._predictor = _predictor(model, _device(device))

    @property
    def footprint_bytes(self) -> int:
        """What the model holds of its device's memory while it rests, measured."""
        return sum(p.numel() * p.element_size() for p in self._predictor.network.parameters())

    def segment(self, volumes: Sequence[Volume], tell: Tell = tell_nobody) -> LabelMap:
        """As Segmenter.segment; turns the grid as the model was trained and the labels back."""
        return self.finish(self.predict(self.prepare(volumes), tell))

    def prepare(self, volumes: Sequence[Volume]) -> Prepared:
        """The first of three steps, on the CPU: what the network will see."""
        self._check(volumes)
        return Prepared(tuple(volumes))

    def predict(self, prepared: Prepared, tell: Tell = tell_nobody) -> Predicted:
        """The second, on the model's device; one at a time."""
        volumes = prepared.volumes
        turn = axis_map(volumes[0].affine, self._model.orientation)
        turned = [turn.apply(volume) for volume in volumes]
        channels = np.stack([volume.array for volume in turned], dtype=np.float32)
        tell(Progress(0.0))
        labels = self._predict(channels, turned[0].spacing_mm)
        tell(Progress(1.0))
        return Predicted(
            LabelMap(turn.undo(labels), volumes[0].affine, volumes[0].frame_of_reference_uid)
        )

    def finish(self, predicted: Predicted) -> LabelMap:
        """The third: labels on the Volumes' grid."""
        return predicted.label_map

    def close(self) -> None:
        """Frees the device's memory. The Segmenter is not used again."""

    def warm_up(self) -> None:
        """One real prediction, of one patch of noise and without mirrors: what is slow once."""
        mirrors, self._predictor.use_mirroring = self._predictor.use_mirroring, False
        try:
            self._predict(*self._patch_of_noise())
        finally:
            self._predictor.use_mirroring = mirrors

    def _check(self, volumes: Sequence[Volume]) -> None:
        if len(volumes) != len(self._model.channels):
            raise ValueError(
                f"{self._model.name} takes {len(self._model.channels)} channels, not {len(volumes)}"
            )
        for volume in volumes:
            if volume.array.shape != volumes[0].array.shape or not np.allclose(
                volume.affine, volumes[0].affine, atol=1e-3
            ):
                raise ValueError("the channels do not lie on one grid")
            if not np.isfinite(volume.array).all():
                raise SeriesRejected("the voxels are not all finite numbers")

    def _predict(
        self, channels: NDArray[np.float32], spacing_mm: tuple[float, ...]
    ) -> NDArray[Any]:
        """Labels (z, y, x) of channels (c, z, y, x) on the training grid; spacing (z, y, x)."""
        # nnU-Net writes into the properties: they are made for this call.
        properties = {"spacing": [round(mm, _SPACING_DECIMALS) for mm in spacing_mm]}
        with _silence():
            labels: NDArray[Any] = self._predictor.predict_single_npy_array(channels, properties)
        return labels

    def _patch_of_noise(self) -> tuple[NDArray[np.float32], tuple[float, ...]]:
        configuration = self._predictor.configuration_manager
        back = self._predictor.plans_manager.transpose_backward
        patch, spacing = list(configuration.patch_size), list(configuration.spacing)
        if len(patch) == 2:  # a 2D configuration slides over the first axis
            patch, spacing = [1, *patch], [spacing[0], *spacing]
        shape = (len(self._model.channels), *(patch[axis] for axis in back))
        noise = np.random.default_rng(0).random(shape, dtype=np.float32)
        return noise, tuple(spacing[axis] for axis in back)


class _Predictor(nnUNetPredictor):  # type: ignore[misc]  # nnunetv2 is not typed
    """Stock nnU-Net, except that a failure is a failure.

    Stock takes every RuntimeError on a GPU for a lack of memory, and starts the case again with
    its results on the CPU. And that small patches are mirrored two at a time on a CPU: torch runs
    3D convolutions of a single small input without oneDNN, which takes as long as two with it.
    """

    def _internal_maybe_mirror_and_predict(self, x: torch.Tensor) -> torch.Tensor:
        """The mean over all mirrors, summed in stock's order. x: (1, c, [z,] y, x)."""
        if not self.use_mirroring or not self.allowed_mirroring_axes or not _is_small(x):
            stock: torch.Tensor = super()._internal_maybe_mirror_and_predict(x)
            return stock
        flips = _mirrors(self.allowed_mirroring_axes)
        mean = torch.zeros(())
        for pair in zip(flips[0::2], flips[1::2], strict=True):
            both = self.network(torch.cat([torch.flip(x, axes) for axes in pair]))
            for axes, prediction in zip(pair, both.split(1), strict=True):
                mean = mean + torch.flip(prediction, axes)
        return mean / len(flips)

    def _internal_predict_sliding_window_return_logits(self, *arguments: Any, **named: Any) -> Any:
        try:
            return super()._internal_predict_sliding_window_return_logits(*arguments, **named)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if "allocate memory" in str(error):  # the CPU's way to say it
                raise MemoryError(str(error)) from error
            raise PredictionFailed(str(error)) from error


def _is_small(x: torch.Tensor) -> bool:
    """Whether a pair costs little memory, and torch might leave oneDNN out for one alone.

    The rule is `use_mkldnn` in ATen/native/Convolution.cpp: batch 1, channels × two axes ≤ 20480.
    """
    return x.device.type == "cpu" and x.shape[2:].numel() <= _SMALL_PATCH


def _mirrors(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """Every combination of axes (spatial, from 0) as dimensions of (1, c, …); none comes first."""
    dimensions = [axis + 2 for axis in axes]
    return [c for n in range(len(dimensions) + 1) for c in combinations(dimensions, n)]


def _predictor(model: Model, device: torch.device) -> _Predictor:
    plans_manager = PlansManager(read_json(model.folder / PLANS))
    dataset = read_json(model.folder / DATASET)
    try:
        configuration = plans_manager.get_configuration(model.configuration)
        channels = determine_num_input_channels(plans_manager, configuration, dataset)
        heads = plans_manager.get_label_manager(dataset).num_segmentation_heads
        architecture = configuration.configuration["architecture"]
    except Exception as error:  # nnU-Net asserts, indexes and imports what the files say
        raise ConfigError(f"{model.folder}: nnU-Net cannot use its plans: {error!r}") from error
    network = build_network(architecture, channels, heads, model.folder / PLANS).to(device)
    parameters, mirror_axes, trainer = _all_folds(model, network)
    predictor = _Predictor(device=device, allow_tqdm=False)
    predictor.manual_initialization(
        network, plans_manager, configuration, parameters, dataset, trainer, mirror_axes
    )
    return predictor


def _all_folds(
    model: Model, network: torch.nn.Module
) -> tuple[list[dict[str, torch.Tensor]], tuple[int, ...] | None, str]:
    """Every fold's weights, tried in the network; the mirrors and the trainer of the first."""
    paths = [checkpoint_path(model.folder, fold, model.checkpoint_name) for fold in model.folds]
    checkpoints = [read_checkpoint(path) for path in paths]
    for checkpoint, path in zip(checkpoints, paths, strict=True):
        load_weights(network, checkpoint, path)
    parameters = [checkpoint.weights for checkpoint in checkpoints]
    if len(parameters) == 1:
        parameters = [network.state_dict()]  # the network's own tensors: no second copy
    return parameters, checkpoints[0].mirror_axes, checkpoints[0].trainer


def _refuse_changed_files(model: Model) -> None:
    """The results' UIDs come from the fingerprint: other weights under it would be a lie."""
    found = fingerprint(model.folder, model.checkpoint_name, model.folds, model.orientation)
    if found != model.fingerprint:
        raise Fatal(
            f'model "{model.name}": the files in {model.folder} have changed since it was '
            "loaded; restart the node"
        )


def _device(name: str) -> torch.device:
    found = torch.cuda.is_available()
    device = torch.device(("cuda" if found else "cpu") if name == "auto" else name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f'inference.device = "{name}", but torch sees {torch.cuda.device_count()} CUDA '
            'devices; install a CUDA build of torch and a driver, or write "cpu"'
        )
    return device


def _silence() -> contextlib.redirect_stdout[io.StringIO]:
    """nnU-Net prints; stdout belongs to the command that runs."""
    return contextlib.redirect_stdout(io.StringIO())
