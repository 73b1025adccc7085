"""The measurement groups of a report, compared with the labels and with what the SEGs say."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pydicom import Dataset

from node.core.anatomy import Code, Segment
from node.core.errors import Fatal
from node.dicom.results.answer import Answer, ResultObject
from node.dicom.results.documents.tree import every, only
from node.dicom.results.gate import CodedName, coded, letters, require_code
from node.dicom.results.report.recount import Counted
from node.dicom.results.segmentation.decoded import opened

TOLERANCE: Final = 1e-6  # relative: reports have seven digits

_MEASUREMENTS, _GROUP = ("126010", "DCM"), ("125007", "DCM")
_FINDING, _CATEGORY = ("121071", "DCM"), ("276214006", "SCT")
_SITE, _LATERALITY = ("363698007", "SCT"), ("272741003", "SCT")
_TRACKING_ID, _TRACKING_UID = ("112039", "DCM"), ("112040", "DCM")
_SEGMENT, _SOURCE_SERIES = ("121191", "DCM"), ("121232", "DCM")
_VOLUME, _DIAMETER = ("118565006", "SCT"), ("L0JK", "IBSI")
_DERIVATION = ("121401", "DCM")
_MEAN, _DEVIATION = ("373098007", "SCT"), ("386136009", "SCT")
_ALWAYS_MEASURED: Final = {"MR": "1"}  # of others the header may leave the unit open
_UNITS: Final = {"CT": "[hnsf'U]", "MR": "1"}
_PET_UNITS: Final = {  # by Units (0054,1001), PS3.3 C.8.9.1.1.3
    "BQML": "Bq/ml",
    "CNTS": "{counts}",
    "CPS": "{counts}/s",
    "PROPCNTS": "{propcounts}",
    "PROPCPS": "{propcounts}/s",
}
_SUV_NAMES: Final = {  # by SUV Type (0054,1006), where it is not BSA
    "BW": "bw",
    "LBM": "lbm",
    "LBMJANMA": "lbm(Janma)",
    "LBMJAMES128": "lbm(James128)",
    "IBW": "ibw",
}


@dataclass(frozen=True)
class _Stated:
    """A Segment as a Segmentation states it."""

    sop_class_uid: str
    sop_instance_uid: str
    number: int
    label: str
    tracking_id: str
    tracking_uid: str


def require_groups(
    dataset: Dataset,
    answer: Answer,
    segmentations: Sequence[ResultObject],
    counted: Mapping[int, Counted],
) -> None:
    """One group for each Segment that was counted. Raises Fatal saying which is wrong."""
    expected = {s.number: s for s in answer.model.segments if s.number in counted}
    source = answer.first
    series = str(source.SeriesInstanceUID)
    stated = _by_segment(expected.values(), segmentations)
    containers = every(dataset, _MEASUREMENTS)
    groups = [group for container in containers for group in every(container, _GROUP)]
    by_uid = {str(only(group, _TRACKING_UID).UID): group for group in groups}
    if len(groups) != len(expected) or len(by_uid) != len(groups):
        raise wrong(f"it has {len(groups)} measurement groups for {len(expected)} Segments")
    for number, segment in expected.items():
        group = by_uid.get(stated[number].tracking_uid)
        if group is None:
            raise wrong(f"no group has the Tracking UID of {segment.label}")
        _require_segment(group, segment, stated[number], series)
        _require_numbers(group, segment, counted[number], source)


def _by_segment(
    segments: Collection[Segment], segmentations: Sequence[ResultObject]
) -> Mapping[int, _Stated]:
    """What the Segmentations call each Segment, found by its label, then by its order."""
    stated = [segment for one in segmentations for segment in _stated(one)]
    free = sorted(stated, key=lambda one: letters(one.label))
    wanted = sorted(segments, key=lambda one: letters(one.label.strip()[:64]))
    if [letters(one.label) for one in free] != [letters(s.label.strip()[:64]) for s in wanted]:
        if not wanted:
            return {}  # of what is empty, Segmentations declare all Segments
        raise wrong("the Segmentations do not have the Segments that the labels have")
    return {segment.number: one for segment, one in zip(wanted, free, strict=True)}


def _stated(segmentation: ResultObject) -> Iterator[_Stated]:
    dataset = opened(segmentation.pieces).header
    for item in dataset.SegmentSequence:
        if int(item.SegmentNumber) == 0:
            continue  # the background of a LABELMAP
        yield _Stated(
            str(dataset.SOPClassUID),
            str(dataset.SOPInstanceUID),
            int(item.SegmentNumber),
            str(item.SegmentLabel),
            str(item.TrackingID),
            str(item.TrackingUID),
        )


def _require_segment(group: Dataset, segment: Segment, stated: _Stated, series_uid: str) -> None:
    """What it is, and which Segment of which Segmentation of which Series it refers to."""
    (image,) = only(group, _SEGMENT).ReferencedSOPSequence
    found = {
        "Tracking ID": (str(only(group, _TRACKING_ID).TextValue).strip(), stated.tracking_id),
        "Segmentation": (image.ReferencedSOPInstanceUID, stated.sop_instance_uid),
        "Segmentation class": (image.ReferencedSOPClassUID, stated.sop_class_uid),
        "Segment Number": (int(image.ReferencedSegmentNumber), stated.number),
        "source Series": (only(group, _SOURCE_SERIES).UID, series_uid),
        "finding": (_value(only(group, _FINDING)), _pair(segment.type)),
        "category": (_value(only(group, _CATEGORY)), _pair(segment.category)),
    }
    for name, (value, expected) in found.items():
        if value != expected:
            raise wrong(f"{segment.label}: its {name} is {value}, not {expected}")
    _require_site(group, segment)


def _require_site(group: Dataset, segment: Segment) -> None:
    """Region and side, PS3.16 TID 1411; where only the side is known, it is that of the finding."""
    expected = segment.region or (segment.type if segment.laterality else None)
    sites = every(group, _SITE)
    codes = [code for site in sites for code in site.ConceptCodeSequence]
    require_code(codes, expected, f"{segment.label}: its finding site", wrong)
    sides = [side for site in sites for side in every(site, _LATERALITY)]
    codes = [code for side in sides for code in side.ConceptCodeSequence]
    require_code(codes, segment.laterality, f"{segment.label}: its laterality", wrong)


def _require_numbers(group: Dataset, segment: Segment, counted: Counted, source: Dataset) -> None:
    """Volume and diameter; mean and standard deviation where there must be, or are, any."""
    _require_close(only(group, _VOLUME), "ml", counted.volume_ml, counted.volume_ml, segment)
    _require_close(only(group, _DIAMETER), "mm", counted.diameter_mm, counted.diameter_mm, segment)
    derived = {
        _value(how): item for item in group.ContentSequence for how in every(item, _DERIVATION)
    }
    mean, deviation = counted.mean, counted.deviation
    if mean is None or deviation is None:
        if derived:
            raise wrong(f"{segment.label}: there are no voxels to take a mean of")
        return
    if not derived and str(source.get("Modality")) not in _ALWAYS_MEASURED:
        return
    if set(derived) != {_MEAN, _DEVIATION}:
        raise wrong(f"{segment.label}: mean or standard deviation is missing")
    for how, expected in ((_MEAN, mean), (_DEVIATION, deviation)):
        _require_close(derived[how], _unit_of(source), expected, abs(mean) + deviation, segment)


def _unit_of(source: Dataset) -> str | None:
    """UCUM's code for what the header says that the voxels are (PS3.16 CID 84); or that of none."""
    modality = str(source.get("Modality"))
    if modality != "PT":
        return _UNITS.get(modality)
    units = str(source.get("Units") or _rescale_type(source))
    kind = str(source.get("SUVType") or {"CM2ML": "BSA"}.get(units, "BW"))
    if units == "CM2ML" and kind == "BSA":
        return "cm2/ml{SUVbsa}"
    if units == "GML" and kind in _SUV_NAMES:
        return f"g/ml{{SUV{_SUV_NAMES[kind]}}}"
    return _PET_UNITS.get(units)


def _rescale_type(source: Dataset) -> str:
    """Of a classic header, or of the frames of an enhanced one, which are alike."""
    shared, own = (
        source.get(f"{which}FunctionalGroupsSequence") or [] for which in ("Shared", "PerFrame")
    )
    groups = [groups.get("PixelValueTransformationSequence") for groups in (*shared, *own[:1])]
    stated = [one.get("RescaleType") for one in (source, *(group[0] for group in groups if group))]
    return next((str(value) for value in stated if value), "")


def _require_close(
    item: Dataset, unit: str | None, expected: float, scale: float, segment: Segment
) -> None:
    (measured,) = item.MeasuredValueSequence
    value, name = float(measured.NumericValue), item.ConceptNameCodeSequence[0].CodeMeaning
    stated, scheme = coded(measured.MeasurementUnitsCodeSequence[0])
    if (stated, scheme) != (unit, "UCUM"):
        raise wrong(f"{segment.label}: {name} is in {stated}")
    if not abs(value - expected) <= TOLERANCE * scale:
        raise wrong(f"{segment.label}: {name} is {value:g} {stated}, counted again {expected:g}")


def _value(item: Dataset) -> CodedName:
    return coded(item.ConceptCodeSequence[0])


def _pair(code: Code) -> CodedName:
    return code.value, code.scheme


def wrong(sentence: str) -> Fatal:
    """A fault of a report that was found before it left."""
    return Fatal(f"the report is wrong and must not leave (please report this): {sentence}")
