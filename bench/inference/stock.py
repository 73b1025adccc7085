"""Stock nnU-Net: its warm API in this process, and its command line."""

import shutil
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape

from bench.inference import cases, stock_command
from bench.inference.process import users_environment
from bench.inference.run import Run

_LIMIT_SECONDS = 1800.0


class _Predictor(nnUNetPredictor):  # type: ignore[misc]  # nnunetv2 is not typed
    """Stock; notes when its network began and ended."""

    network_began = network_ended = 0.0

    def predict_logits_from_preprocessed_data(self, data: torch.Tensor) -> torch.Tensor:
        self.network_began = time.monotonic()
        logits: torch.Tensor = super().predict_logits_from_preprocessed_data(data)
        self.network_ended = time.monotonic()
        return logits


def run(model: Path, folder: Path, number: int, *, mirrors: bool) -> Run:
    """predict_single_npy_array on one of the folder's volumes. The first run is not warm."""
    predictor, volume = _predictor(model, mirrors), cases.volumes(folder)[number]
    channels, spacing = volume.array[None].copy(), list(volume.spacing_mm)
    began = time.monotonic()
    labels = predictor.predict_single_npy_array(channels, {"spacing": spacing})
    ended = time.monotonic()
    return Run(
        ended - began,
        preprocessing=predictor.network_began - began,
        export=ended - predictor.network_ended,
        labels=labels,
    )


def sustained(model: Path, folder: Path, count: int) -> Run:
    """`count` volumes one after another, without mirrors, the folder's over and over."""
    available = len(cases.volumes(folder))
    began = time.monotonic()
    for number in range(count):
        run(model, folder, number % available, mirrors=False)
    return Run(time.monotonic() - began)


def command(model: Path, folder: Path, *, mirrors: bool) -> Run:
    """nnUNetv2_predict_from_modelfolder on folder/images, from start to exit."""
    shutil.rmtree(folder / "predicted", ignore_errors=True)
    line: list[str | Path] = [
        sys.executable, "-m", stock_command.__name__, "-f", "0", "-device", "cpu",
        "-i", folder / "images", "-o", folder / "predicted", "-m", model,
        *([] if mirrors else ["--disable_tta"]),
    ]  # fmt: skip
    began = time.monotonic()
    subprocess.run(
        line, check=True, capture_output=True, timeout=_LIMIT_SECONDS,
        cwd=cases.REPOSITORY, env=users_environment(),
    )  # fmt: skip
    seconds = time.monotonic() - began
    if not (folder / "predicted" / "case.nii.gz").is_file():
        raise RuntimeError(f"{model}: nnU-Net's command line left no result")
    return Run(seconds)


def tile_count(model: Path, folder: Path, number: int) -> int:
    """How many patches nnU-Net takes from one of the folder's volumes."""
    volume = cases.volumes(folder)[number]
    configuration = _predictor(model, False).configuration_manager
    shape = compute_new_shape(volume.array.shape, volume.spacing_mm, configuration.spacing)
    padded = np.maximum(shape, configuration.patch_size)
    steps = compute_steps_for_sliding_window(padded, configuration.patch_size, 0.5)
    return int(np.prod([len(along) for along in steps]))


@cache
def _predictor(model: Path, mirrors: bool) -> _Predictor:
    stock_command.spare_the_search()
    predictor = _Predictor(
        use_mirroring=mirrors,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    predictor.initialize_from_trained_model_folder(str(model), (0,))
    return predictor
