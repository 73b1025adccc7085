"""Planes: one per frame of an image, with where it lies and what tells its volume from others.

Sorting, splitting into volumes, and the evidence that a Series is whole need no pixels and no
headers beyond this; so it is what the database holds of an Instance's header.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from pydicom import Dataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    EnhancedPETImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    LegacyConvertedEnhancedPETImageStorage,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
)

from node.core.text import clean

Triple = tuple[float, float, float]
Cosines = tuple[float, float, float, float, float, float]

CLASSIC_SOP_CLASSES: Final = frozenset(
    (CTImageStorage, MRImageStorage, PositronEmissionTomographyImageStorage)
)
ENHANCED_SOP_CLASSES: Final = frozenset(
    (
        EnhancedCTImageStorage,
        EnhancedMRImageStorage,
        EnhancedPETImageStorage,
        LegacyConvertedEnhancedCTImageStorage,
        LegacyConvertedEnhancedMRImageStorage,
        LegacyConvertedEnhancedPETImageStorage,
    )
)
VOLUME_SOP_CLASSES: Final = CLASSIC_SOP_CLASSES | ENHANCED_SOP_CLASSES

# What tells one volume of a Series from another, by the keyword of the classic header; of several
# that would do, the one named first is taken.
_TRAITS_IN_ORDER = (
    "ImageType EchoNumbers EchoTime TemporalPositionIdentifier TemporalPositionIndex "
    "NominalPercentageOfCardiacPhase NominalPercentageOfRespiratoryPhase TriggerTime "
    "NominalCardiacTriggerDelayTime PhaseNumber DiffusionBValue DiffusionGradientOrientation "
    "DiffusionDirectionality KVP XRayTubeCurrent InversionTime FlipAngle RepetitionTime "
    "ComplexImageComponent SequenceName ConvolutionKernel ContrastBolusAgent FrameReferenceTime "
    "StackID MetaboliteMapDescription AcquisitionDateTime AcquisitionTime ContentTime"
)
TRAITS: Final = tuple(_TRAITS_IN_ORDER.split())

# Where the same stands in functional groups (PS3.3 C.7.6.16, C.8.13.5, C.8.15.3): sequence →
# (keyword there, trait). Unassigned attributes are those of a legacy-converted image, C.7.6.25.
_IN_GROUPS: Final[Mapping[str, Sequence[tuple[str, str]]]] = {
    "MRImageFrameTypeSequence": (
        ("FrameType", "ImageType"),
        ("ComplexImageComponent", "ComplexImageComponent"),
    ),
    "CTImageFrameTypeSequence": (("FrameType", "ImageType"),),
    "PETFrameTypeSequence": (("FrameType", "ImageType"),),
    "FrameContentSequence": (
        ("TemporalPositionIndex", "TemporalPositionIndex"),
        ("StackID", "StackID"),
        ("FrameAcquisitionDateTime", "AcquisitionDateTime"),
    ),
    "TemporalPositionSequence": (("TemporalPositionTimeOffset", "FrameReferenceTime"),),
    "MREchoSequence": (("EffectiveEchoTime", "EchoTime"),),
    "MRDiffusionSequence": (
        ("DiffusionBValue", "DiffusionBValue"),
        ("DiffusionDirectionality", "DiffusionDirectionality"),
    ),
    "CardiacSynchronizationSequence": (
        ("NominalPercentageOfCardiacPhase", "NominalPercentageOfCardiacPhase"),
        ("NominalCardiacTriggerDelayTime", "NominalCardiacTriggerDelayTime"),
    ),
    "RespiratorySynchronizationSequence": (
        ("NominalPercentageOfRespiratoryPhase", "NominalPercentageOfRespiratoryPhase"),
    ),
    "CTXRayDetailsSequence": (("KVP", "KVP"),),
    "CTExposureSequence": (("XRayTubeCurrentInmA", "XRayTubeCurrent"),),
    "CTReconstructionSequence": (("ConvolutionKernel", "ConvolutionKernel"),),
    "MRTimingAndRelatedParametersSequence": (
        ("RepetitionTime", "RepetitionTime"),
        ("FlipAngle", "FlipAngle"),
    ),
    "MRModifierSequence": (("InversionTimes", "InversionTime"),),
    "MRMetaboliteMapSequence": (("MetaboliteMapDescription", "MetaboliteMapDescription"),),
    "UnassignedPerFrameConvertedAttributesSequence": tuple((t, t) for t in TRAITS),
    "UnassignedSharedConvertedAttributesSequence": tuple((t, t) for t in TRAITS),
}

MAX_FRAMES: Final = 10_000  # of one Instance; an empty item of eight bytes claims a frame
_MAX_TEXT = 128
_MAX_MM = 1e6  # beyond a kilometre a position is no position
_SMALLEST_MM, _LARGEST_MM = 1e-4, 1e3  # of a pixel


@dataclass(frozen=True)
class Plane:
    """One frame of an image.

    position: centre of the first voxel, LPS mm. orientation: row, then column cosines.
    pixel_spacing: (row, column) mm. frame: 1 to n within a multi-frame Instance, None in a
    single-frame one. traits: what tells one volume of a Series from another, by DICOM keyword
    (ImageType, EchoTime, …), as text. images_in_acquisition: (0020,1002).
    What the header lacks, or what makes no sense there, is None.
    """

    sop_instance_uid: str
    sop_class_uid: str
    frame: int | None = None
    instance_number: int | None = None
    acquisition_number: int | None = None
    images_in_acquisition: int | None = None
    rows: int | None = None
    columns: int | None = None
    position: Triple | None = None
    orientation: Cosines | None = None
    pixel_spacing: tuple[float, float] | None = None
    frame_of_reference_uid: str | None = None
    traits: Mapping[str, str] | None = None

    def __str__(self) -> str:
        uid = self.sop_instance_uid or "without UID"
        if self.frame is not None:
            return f"frame {self.frame} ({uid})"
        return (
            f"slice ({uid})"
            if self.instance_number is None
            else (f"slice {self.instance_number} ({uid})")
        )


def plane_values(plane: Plane) -> dict[str, Any]:
    """A Plane as JSON takes it; what is None is left out."""
    return {key: value for key, value in asdict(plane).items() if value is not None}


def plane_from(values: Mapping[str, Any]) -> Plane:
    """The Plane of `plane_values`, after it was JSON."""
    known: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return Plane(**known)


def planes_of(instance: Dataset) -> tuple[Plane, ...]:
    """The Planes of an Instance, from its header; no pixels are read, nothing is raised.

    One for a single-frame image, one per frame where functional groups describe them; one without
    a place for an image that no volume is made of, whose header lacks Rows, or of more than
    MAX_FRAMES; none for what is no image.
    """
    whole = _shared_values(instance)
    pixels = whole["rows"] is not None or _value(instance, "FloatPixelData") is not None
    if not pixels and whole["sop_class_uid"] not in VOLUME_SOP_CLASSES:
        return ()
    items = _items(instance, "PerFrameFunctionalGroupsSequence")
    if whole["sop_class_uid"] in ENHANCED_SOP_CLASSES and items:
        if len(items) > MAX_FRAMES:
            return (Plane(**whole, frame=len(items)),)
        return tuple(_frames(instance, items, whole))
    if whole["sop_class_uid"] in CLASSIC_SOP_CLASSES and _frame_count(instance) == 1:
        return (Plane(**whole, **_classic_place(instance)),)
    return (Plane(**whole),)


def _shared_values(instance: Dataset) -> dict[str, Any]:
    return {
        "sop_instance_uid": _text(instance, "SOPInstanceUID") or "",
        "sop_class_uid": _text(instance, "SOPClassUID") or "",
        "instance_number": _whole(instance, "InstanceNumber"),
        "acquisition_number": _whole(instance, "AcquisitionNumber"),
        "images_in_acquisition": _whole(instance, "ImagesInAcquisition"),
        "rows": _whole(instance, "Rows"),
        "columns": _whole(instance, "Columns"),
        "frame_of_reference_uid": _text(instance, "FrameOfReferenceUID"),
        "traits": _traits(instance, [(trait, trait) for trait in TRAITS]) or None,
    }


def _classic_place(instance: Dataset) -> dict[str, Any]:
    return {
        "position": _position(instance),
        "orientation": _orientation(instance),
        "pixel_spacing": _pixel_spacing(instance),
    }


def _frames(instance: Dataset, items: Sequence[Dataset], whole: dict[str, Any]) -> Iterator[Plane]:
    """A Plane for each frame; where their number is not the one announced, one without a place."""
    shared = next(iter(_items(instance, "SharedFunctionalGroupsSequence")), Dataset())
    common = {**(whole["traits"] or {}), **_group_traits(shared)}
    place = _group_place(shared)
    for number, item in enumerate(items, start=1):
        own = {key: value for key, value in _group_place(item).items() if value is not None}
        content = next(iter(_items(item, "FrameContentSequence")), Dataset())
        acquisition = _whole(content, "FrameAcquisitionNumber")
        traits = {**common, **_group_traits(item)}
        values = {**whole, **place, **own, "traits": traits or None, "frame": number}
        if acquisition is not None:
            values["acquisition_number"] = acquisition
        yield Plane(**values)
    if _frame_count(instance) != len(items):
        yield Plane(**{**whole, "frame": len(items) + 1})


def _frame_count(instance: Dataset) -> int:
    count = _whole(instance, "NumberOfFrames")
    return 1 if count is None else count


def _group_place(groups: Dataset) -> dict[str, Any]:
    """Where a frame lies, from one item of functional groups (PS3.3 C.7.6.16.2.1, .3, .4)."""

    def of(sequence: str) -> Dataset:
        return next(iter(_items(groups, sequence)), Dataset())

    return {
        "position": _position(of("PlanePositionSequence")),
        "orientation": _orientation(of("PlaneOrientationSequence")),
        "pixel_spacing": _pixel_spacing(of("PixelMeasuresSequence")),
    }


def _group_traits(groups: Dataset) -> dict[str, str]:
    traits: dict[str, str] = {}
    for sequence, keywords in _IN_GROUPS.items():
        for item in _items(groups, sequence)[:1]:
            traits |= _traits(item, keywords)
            for gradient in _items(item, "DiffusionGradientDirectionSequence")[:1]:
                direction = "DiffusionGradientOrientation"
                traits |= _traits(gradient, [(direction, direction)])
    return traits


def _traits(dataset: Dataset, keywords: Sequence[tuple[str, str]]) -> dict[str, str]:
    found = ((trait, _text(dataset, keyword)) for keyword, trait in keywords)
    return {trait: text for trait, text in found if text}


def _value(dataset: Dataset, keyword: str) -> Any:
    try:
        return dataset.get(keyword)
    except Exception:  # the value is decoded only now: a hostile one raises almost anything
        return None


def _items(dataset: Dataset, keyword: str) -> Sequence[Dataset]:
    value = _value(dataset, keyword)
    return value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else ()


def _text(dataset: Dataset, keyword: str) -> str | None:
    value = _value(dataset, keyword)
    if value is None or value == "":
        return None
    try:
        parts = [value] if isinstance(value, str) or not hasattr(value, "__iter__") else value
        return clean("\\".join(str(part).strip(" \0") for part in parts)[:_MAX_TEXT]) or None
    except Exception:  # as in _value
        return None


def _whole(dataset: Dataset, keyword: str) -> int | None:
    """A whole number that a signed 32-bit one can hold (PS3.5 6.2, IS)."""
    try:
        number = int(_value(dataset, keyword))
    except Exception:  # as in _value
        return None
    return number if abs(number) < 2**31 else None


def _numbers(dataset: Dataset, keyword: str, count: int, largest: float) -> Any:
    """So many finite numbers of at most `largest`, or None."""
    try:
        numbers = tuple(float(value) for value in _value(dataset, keyword))
    except Exception:  # as in _value
        return None
    sound = len(numbers) == count and all(abs(number) <= largest for number in numbers)
    return numbers if sound else None


def _position(dataset: Dataset) -> Triple | None:
    position: Triple | None = _numbers(dataset, "ImagePositionPatient", 3, _MAX_MM)
    return position


def _orientation(dataset: Dataset) -> Cosines | None:
    cosines: Cosines | None = _numbers(dataset, "ImageOrientationPatient", 6, 2.0)
    return cosines


def _pixel_spacing(dataset: Dataset) -> tuple[float, float] | None:
    spacing: tuple[float, float] | None = _numbers(dataset, "PixelSpacing", 2, _LARGEST_MM)
    return spacing if spacing and min(spacing) >= _SMALLEST_MM else None
