"""The Segmenter that runs nnU-Net v2 models: one Model, built once, kept warm, in three steps.

Loads torch, so only the worker process and `segnode predict` import it; call
environment.prepare() before.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from node.core.errors import ConfigError, Fatal, SeriesRejected
from node.core.model import Model, Progress, Tell, tell_nobody
from node.core.volume import Affine, AxisMap, LabelMap, Volume, axis_map
from node.inference.environment import cores
from node.inference.folder import fingerprint_now
from node.inference.footprint import held_bytes, keep_freed_memory
from node.inference.preprocess import Case
from node.inference.probabilities import require_room
from node.inference.stage import Stage
from node.inference.worker.memory import HostMemory

# Noise in direction cosines must not decide nnU-Net's `spacing ratio > 3` and `spacings equal`.
_SPACING_DECIMALS = 6  # of mm
_FIRST_STAGE = 0.5  # of a cascade's progress


@dataclass(frozen=True, eq=False)
class Prepared:
    """Volumes as the first stage will see them. turned: on the training grid.

    probabilities: whether they are asked for.
    """

    source: Volume
    turn: AxisMap
    turned: tuple[Volume, ...]
    spacing_mm: tuple[float, ...]
    case: Case
    probabilities: bool


@dataclass(frozen=True, eq=False)
class Predicted:
    """Logits of the last stage, on its device, and what their way back needs; no images."""

    turn: AxisMap
    affine: Affine
    frame_of_reference_uid: str
    case: Case
    logits: torch.Tensor
    probabilities: bool


class NnunetSegmenter:
    """One Model's Segmenter.

    device: "auto", "cpu", "cuda" or "cuda:N". threads: 0 takes all cores. backend: "torch",
    "openvino" or "auto": OpenVINO where it is installed and the CPU is the device. cache: a
    folder for converted networks. Raises ConfigError where the model or the device cannot be
    used, Fatal where the model's files have changed since it was loaded.
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
        keep_freed_memory()
        torch.set_num_threads(cores(threads))
        self._model, on = model, _device(device)
        before = held_bytes(on)
        self._stages = [
            Stage(stage, on, cores(threads), backend, cache)
            for stage in (model.previous_stage, model)
            if stage is not None
        ]
        self.footprint_bytes = max(0, held_bytes(on) - before)

    def segment(
        self,
        volumes: Sequence[Volume],
        tell: Tell = tell_nobody,
        probabilities: bool = False,
    ) -> LabelMap:
        """As Segmenter.segment: the three steps in a row."""
        return self.finish(self.predict(self.prepare(volumes, probabilities), tell))

    @torch.inference_mode()
    def prepare(self, volumes: Sequence[Volume], probabilities: bool = False) -> Prepared:
        """The first step, on the CPU: turned as the model was trained, normalised, resampled.

        Raises Fatal or Temporary where there is no room for the probabilities.
        """
        self._check(volumes)
        if probabilities:
            labels = len(self._stages[-1].plan.heads.shown)
            require_room(labels, volumes[0].array.shape, HostMemory().free_bytes())
        turn = axis_map(volumes[0].affine, self._model.orientation)
        turned = tuple(turn.apply(volume) for volume in volumes)
        spacing_mm = tuple(round(mm, _SPACING_DECIMALS) for mm in turned[0].spacing_mm)
        case = self._stages[0].prepare([volume.array for volume in turned], spacing_mm)
        return Prepared(volumes[0], turn, turned, spacing_mm, case, probabilities)

    @torch.inference_mode()
    def predict(self, prepared: Prepared, tell: Tell = tell_nobody) -> Predicted:
        """The second, on the device, one case at a time. What `tell` raises ends it."""
        if len(self._stages) == 1:
            logits = self._stages[0].logits(prepared.case, tell)
            return _predicted(prepared, prepared.case, logits)
        first, second = self._stages
        half = _scaled(tell, 0.0, _FIRST_STAGE)
        labels = first.labels(first.logits(prepared.case, half), prepared.case)
        arrays = [volume.array for volume in prepared.turned]
        case = second.prepare(arrays, prepared.spacing_mm, labels)
        logits = second.logits(case, _scaled(tell, _FIRST_STAGE, 1.0))
        return _predicted(prepared, case, logits)

    @torch.inference_mode()
    def finish(self, predicted: Predicted) -> LabelMap:
        """The third: labels on the Volumes' own grid. Raises Fatal for logits that overflowed."""
        labels = self._stages[-1].labels(predicted.logits, predicted.case)
        array = predicted.turn.undo(labels)
        found = self._probabilities(predicted) if predicted.probabilities else None
        frame = predicted.frame_of_reference_uid
        return LabelMap(array, predicted.affine, frame, probabilities=found)

    def _probabilities(self, predicted: Predicted) -> dict[int, NDArray[np.uint8]]:
        found = self._stages[-1].probabilities(predicted.logits, predicted.case)
        for label in found:  # one by one: a turned one is a copy
            found[label] = predicted.turn.undo(found[label])
        return found

    def warm_up(self) -> None:
        """One patch of noise through each stage: what is slow once is slow now."""
        for stage in self._stages:
            stage.warm_up()

    def close(self) -> None:
        """Frees the device's memory. The Segmenter is not used again."""
        for stage in self._stages:
            stage.close()

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


def _predicted(prepared: Prepared, case: Case, logits: torch.Tensor) -> Predicted:
    source, without_image = prepared.source, replace(case, image=torch.empty(0))
    return Predicted(
        prepared.turn,
        source.affine,
        source.frame_of_reference_uid,
        without_image,
        logits,
        prepared.probabilities,
    )


def _scaled(tell: Tell, start: float, stop: float) -> Tell:
    """Progress of a part as progress of the whole."""

    def tell_part(progress: Progress) -> None:
        tell(Progress(start + (stop - start) * progress.done, progress.note))

    return tell_part


def _refuse_changed_files(model: Model) -> None:
    """The results' UIDs come from the fingerprint: other weights under it would be a lie."""
    if fingerprint_now(model) != model.fingerprint:
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
