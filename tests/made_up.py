"""A Model without files, for tests in which the Segmenter is a double. Loads no torch."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from node.core.anatomy import TISSUE, Segment
from node.core.model import InputRules, Model


def made_up_model(name: str, **fields: Any) -> Model:
    """One channel of MR, no segments; its fingerprint is its name. `fields`: what differs."""
    plain = Model(
        name=name,
        folder=Path("nowhere"),
        title=name,
        version="1",
        fingerprint=name,
        configuration="",
        folds=(),
        checkpoint_name="",
        channels=("MR",),
        orientation="native",
        orientation_assumed=False,
        accepts=InputRules(),
        segments=(),
    )
    return replace(plain, **fields)


THRESHOLD = made_up_model(
    "threshold",
    title="Threshold",
    fingerprint="f" * 64,
    accepts=InputRules(("MR",), min_slices=16),
    segments=(Segment(1, "Bright", TISSUE, TISSUE, (255, 0, 0)),),
)
