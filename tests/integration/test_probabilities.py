"""Probabilities as nnU-Net computes them, from the network to a FRACTIONAL Segmentation."""

from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

import highdicom
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread

from node import pipeline
from node.core.errors import Fatal, Temporary
from node.core.model import Engine, InputRules, Model, Profile
from node.core.result import Identity, ResultKind, SegForm, SegType, Wants
from node.core.uids import input_fingerprint
from node.core.volume import LabelMap, Volume
from node.dicom.inbox import read_files
from node.dicom.results.answer import ResultObject
from node.dicom.results.make import make_objects
from node.dicom.series import SourceSeries
from node.inference.engine import InProcessEngine, WorkerEngine
from node.inference.model import load_model
from node.inference.plans import read_plan
from node.inference.probabilities import require_room
from node.inference.segmenter import NnunetSegmenter
from node.predict import series_in
from tests.integration.test_equality import KINDS, SPACING, case
from tests.model_factory import HIPPOCAMPUS, make_model_folder, noise_volume
from tests.stock import stock_probabilities

# Half a step of a byte, and what logits of half precision and another sum leave open.
TOLERANCE = 0.5 / 255 + 0.004
READY_SECONDS = 120.0
FRACTIONAL = Wants(SegForm(SegType.FRACTIONAL))


def wanted_by_label(
    model: Model, volumes: Sequence[Volume], spacing: Sequence[float]
) -> dict[int, NDArray[np.float32]]:
    """nnU-Net's own, of each label that is not background."""
    array = np.stack([volume.array for volume in volumes])
    heads = read_plan(model.folder, model.configuration).heads
    found = stock_probabilities(model, array, spacing)
    return {label: found[head] for head, label in heads.shown.items()}


def assert_equal(found: LabelMap, wanted: dict[int, NDArray[np.float32]]) -> None:
    assert found.probabilities is not None
    assert found.probabilities.keys() == wanted.keys()
    for label, expected in wanted.items():
        array = found.probabilities[label]
        assert (array.dtype, array.shape) == (np.uint8, found.array.shape)
        assert array.flags.c_contiguous
        assert np.abs(array / 255 - expected).max() <= TOLERANCE, f"label {label}"
        assert np.abs(array / 255 - expected).mean() <= 0.5 / 255
        assert array.max() > 128, f"label {label}"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_gives_the_probabilities_that_nnunet_gives(
    kind: str, tmp_path: Path
) -> None:
    make, spacing = KINDS[kind]
    model = load_model("m", make(tmp_path / "m"), "native")
    volumes = case(model, spacing)
    segmenter = NnunetSegmenter(model, "cpu", backend="torch")
    found = segmenter.segment(volumes, probabilities=True)
    assert_equal(found, wanted_by_label(model, volumes, spacing))
    assert {segment.number for segment in model.segments} == set(found.probabilities or ())
    without = segmenter.segment(volumes)
    assert without.probabilities is None
    np.testing.assert_array_equal(found.array, without.array)
