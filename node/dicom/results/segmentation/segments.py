"""What a Segmentation says of each Segment: its meaning, its colour, and the Model that drew it."""

from collections.abc import Sequence
from typing import Final

from highdicom import AlgorithmIdentificationSequence
from highdicom.color import CIELabColor
from highdicom.seg import SegmentDescription
from pydicom import Dataset

from node.core.anatomy import Code, Segment
from node.core.model import TILE_STEP, Model, Profile
from node.core.result import SegType
from node.dicom.elements import code_item, long_string, sr_code
from node.dicom.results.answer import Answer
from node.dicom.results.context import Caveat, profile_mark, tracking_id

# What a profile changes, by name; a result of the exact one does not mention it.
CHANGES: Final = {
    Profile.FAST: "no mirroring",
    Profile.FASTEST: (
        f"no mirroring; tile step {TILE_STEP[Profile.FASTEST]} of a patch; tiles of air skipped"
    ),
}

# Of a Segment whose label names the rest of a region that others are painted over.
WHOLE_REGION: Final = (
    "Probability of the whole region, with the part that other segments show in a label map."
)

_ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")  # PS3.16 CID 7162
_BACKGROUND = Code("125040", "DCM", "Background")  # PS3.16 CID 7150, 7151
_BLACK = (0, 0, 0)


def descriptions(
    segments: Sequence[Segment],
    answer: Answer,
    caveats: Sequence[Caveat],
    type: SegType = SegType.BINARY,
) -> list[Dataset]:
    """The Segment Sequence, numbered from 1."""
    algorithm = _algorithm(answer.model, caveats)
    items: list[Dataset] = [
        _description(number, segment, answer, algorithm)
        for number, segment in enumerate(segments, start=1)
    ]
    for item, segment in zip(items, segments, strict=True):
        if type is SegType.FRACTIONAL and segment.covered:
            item.SegmentDescription = WHOLE_REGION
    return items


def background(answer: Answer) -> Dataset:
    """Segment 0, as a LABELMAP describes each value that it has (PS3.3 C.8.20.4)."""
    item = Dataset()
    item.SegmentNumber = 0
    item.SegmentLabel = _BACKGROUND.meaning
    item.SegmentedPropertyCategoryCodeSequence = [code_item(_BACKGROUND)]
    item.SegmentedPropertyTypeCodeSequence = [code_item(_BACKGROUND)]
    item.SegmentAlgorithmType = "AUTOMATIC"
    item.SegmentAlgorithmName = algorithm_name(answer.model)
    item.RecommendedDisplayCIELabValue = list(CIELabColor.from_rgb(*_BLACK).value)
    return item


def _description(
    number: int, segment: Segment, answer: Answer, algorithm: AlgorithmIdentificationSequence
) -> SegmentDescription:
    """One item of the Segment Sequence, PS3.3 C.8.20.4; colour as PCS values, C.10.7.1.1."""
    description = SegmentDescription(
        segment_number=number,
        segment_label=long_string(segment.label),
        segmented_property_category=sr_code(segment.category),
        segmented_property_type=sr_code(segment.type),
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
        tracking_id=tracking_id(answer.model, segment),
        tracking_uid=answer.tracking_uid(segment.number),
        anatomic_regions=[sr_code(segment.region)] if segment.region else None,
        display_color=CIELabColor.from_rgb(*segment.colour),
    )
    if segment.laterality:  # PS3.16 CID 244
        modified = description.SegmentedPropertyTypeCodeSequence[0]
        modified.SegmentedPropertyTypeModifierCodeSequence = [code_item(segment.laterality)]
    return description


def algorithm_name(model: Model) -> str:
    """What a Model is called where people read it."""
    return long_string(model.title, profile_mark(model))


def _algorithm(model: Model, caveats: Sequence[Caveat]) -> AlgorithmIdentificationSequence:
    """Which Model, and how it was run (PS3.3 10.16)."""
    previous, profile = model.previous_stage, model.profile
    return AlgorithmIdentificationSequence(
        name=algorithm_name(model),
        family=sr_code(_ARTIFICIAL_INTELLIGENCE),
        version=long_string(f"{model.version[:48]} {model.fingerprint[:12]}"),
        parameters={
            "model": model.name,
            "configuration": model.configuration,
            "folds": "+".join(model.folds),
            "checkpoint": model.checkpoint_name,
            "orientation": model.orientation + " (assumed)" * model.orientation_assumed,
            "fingerprint": model.fingerprint,
            **({"previous stage": previous.configuration} if previous else {}),
            **({"profile": f"{profile}: {CHANGES[profile]}"} if profile in CHANGES else {}),
            **{caveat.name: caveat.words for caveat in caveats},
        },
    )
