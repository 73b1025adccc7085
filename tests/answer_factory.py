"""Answers about a Series: given labels, as if a Model had found them."""

from typing import Any

from numpy.typing import NDArray

from node.core.model import InputRules, Model
from node.core.result import Identity
from node.core.volume import LabelMap
from node.dicom.assemble import stack
from node.dicom.results.answer import Answer
from node.dicom.series import SourceSeries

CREATED_AT = 1_700_000_000.0  # 2023-11-14 22:13:20 UTC


def answer_of(
    source: SourceSeries,
    array: NDArray[Any],
    model: Model,
    rules: InputRules | None = None,
    **more: Any,
) -> Answer:
    """The Answer with labels (slice, row, column) on the grid of the source's volume."""
    stacked = stack(source, rules or model.accepts)
    volume = stacked.volume
    assert array.shape == volume.array.shape
    predicted = LabelMap(array, volume.affine, volume.frame_of_reference_uid)
    return Answer(
        label_map=stacked.labels_on_planes(predicted),
        predicted=predicted,
        volume=volume,
        model=model,
        source=source,
        planes=stacked.planes,
        identity=Identity("input", "model"),
        created_at=CREATED_AT,
        **more,
    )
