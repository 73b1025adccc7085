"""A first model.toml for a model that has none: what is known, and what a person has to say."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from node.core.anatomy import TISSUE, Code
from node.inference.adding.snomed import Guess, guess

_LONGEST_NAME = 64  # characters, PS3.5 6.2: LO
_MODALITIES = {"ct": "CT", "mr": "MR", "mri": "MR", "pet": "PT"}  # by channel name

_HEAD = """\
# Drafted by `segnode models add` from plans.json and dataset.json. Look through it.
# Research use; not a medical device: a person has to check the codes before results are relied on.
# What stands here is part of the model's fingerprint: restart the node after a change.
"""

_ORIENTATION_UNKNOWN = """\
# How the training arrays lay in the patient. nnU-Net does not record it, and a wrong guess gives
# plausible segmentations with left and right, or head and feet, exchanged. RAS is assumed until it
# is said here. Look at the training images: nibabel.aff2axcodes(nibabel.load(FILE).affine) gives
# the letters; or ask who trained it. "native": slices as the scanner wrote them.
# orientation = "RAS"
"""

_ORIENTATION_KNOWN = """\
# The training arrays were turned to RAS by nnU-Net's reader ({reader}): nothing to say here.
"""

_MODALITY_UNKNOWN = """\
# modality = ["MR"]           # the channels' names ({channels}) do not tell; else any is taken
"""

_SEGMENTS = """\
# A code that was guessed from the label's name says `guessed = true`. Take that line out when a
# person has confirmed the code; `segnode models list` counts those that are left. The names and
# codes: node/inference/adding/codes/segments.csv; more in PS3.16, CID 7150 and 7151.
"""

_UNKNOWN = """\
# {name}: no code is known for this name; it is written as {meaning} ({value}). To code it:
# [segments.{name}]
# category = {{ value = "91723000", scheme = "SCT", meaning = "Anatomical Structure" }}
# type = {{ value = "…", scheme = "SCT", meaning = "…" }}
"""


def draft(
    dataset_name: str,
    channels: Sequence[str],
    labels: Sequence[str],
    recorded_by: str | None,
) -> str:
    """model.toml as text. labels: names in dataset.json that are predicted, in their order.

    recorded_by: the reader that is known to have turned every training image to RAS, or None.
    """
    orientation = (
        _ORIENTATION_KNOWN.format(reader=recorded_by) if recorded_by else _ORIENTATION_UNKNOWN
    )
    names = f'name = {toml_text(title(dataset_name))}\nversion = "1"\n'
    segments = "\n".join(_segment(label, guess(label)) for label in labels)
    return "\n".join([_HEAD, names, orientation, _input(channels), _SEGMENTS, segments])


def title(dataset_name: str) -> str:
    """Dataset297_TotalSegmentator_total_3mm_1559subj → TotalSegmentator total 3mm."""
    text = re.sub(r"^Dataset\d+_|_\d+subj$", "", dataset_name)
    words = re.sub(r"[\\\x00-\x1f\x7f_ ]+", " ", text).strip()
    return words[:_LONGEST_NAME].strip() or "model"


def guessed_modalities(channels: Sequence[str]) -> tuple[str, ...]:
    """What the channels are called in DICOM; nothing where one of them does not tell."""
    found = [_MODALITIES.get(channel.strip().casefold()) for channel in channels]
    return tuple(sorted({one for one in found if one})) if all(found) else ()


def _input(channels: Sequence[str]) -> str:
    listed = ", ".join(toml_text(modality) for modality in guessed_modalities(channels))
    if listed:
        return f"[input]\nmodality = [{listed}]           # guessed from the channels' names\n"
    return "[input]\n" + _MODALITY_UNKNOWN.format(channels=", ".join(map(toml_text, channels)))


def _segment(label: str, guessed: Guess | None) -> str:
    name = toml_key(label)
    if guessed is None:
        return _UNKNOWN.format(name=name, meaning=TISSUE.meaning, value=TISSUE.value)
    codes: Mapping[str, Code | None] = {
        "category": guessed.category,
        "type": guessed.type,
        "region": guessed.region,
        "laterality": guessed.laterality,
    }
    lines = [f"{key} = {_code(code)}" for key, code in codes.items() if code]
    head = f"[segments.{name}]  # guessed from the label's name; check it"
    return "\n".join([head, "guessed = true", *lines, ""])


def _code(code: Code) -> str:
    parts: dict[str, Any] = {"value": code.value, "scheme": code.scheme, "meaning": code.meaning}
    return "{ " + ", ".join(f"{key} = {toml_text(value)}" for key, value in parts.items()) + " }"


def toml_key(name: str) -> str:
    """A key in TOML: bare where it can be."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else toml_text(name)


def toml_text(value: str) -> str:
    """A TOML basic string: JSON's escapes are among TOML's."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
