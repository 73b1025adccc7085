"""The measurement group of a Segment in a report, PS3.16 TID 1411."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

from highdicom.sr import (
    AlgorithmIdentification,
    FindingSite,
    Measurement,
    ReferencedSegment,
    SourceSeriesForSegmentation,
    TrackingIdentifier,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from pydicom import dcmread

from node.core.anatomy import Code, Segment
from node.core.errors import Fatal
from node.core.model import Model
from node.dicom.elements import long_string, sr_code
from node.dicom.results.answer import ResultObject
from node.dicom.results.context import MANUFACTURER, Caveat, profile_mark, tracking_id
from node.dicom.results.documents.document import Reference, algorithm_version, of_result
from node.dicom.results.report.measurements import Measured
from node.dicom.results.report.units import Quantity

_VOLUME: Final = Code("118565006", "SCT", "Volume")  # PS3.16 CID 7472
_DIAMETER: Final = Code("L0JK", "IBSI", "Maximum 3D Diameter of a Mesh")  # CID 7470
_MEAN: Final = Code("373098007", "SCT", "Mean")  # CID 7464
_DEVIATION: Final = Code("386136009", "SCT", "Standard Deviation")
_MILLILITRE: Final = Code("ml", "UCUM", "milliliter")
_MILLIMETRE: Final = Code("mm", "UCUM", "millimeter")
_ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")  # CID 7162


@dataclass(frozen=True)
class Place:
    """Where a Segmentation has a Segment."""

    segmentation: Reference
    segment_number: int
    tracking_uid: str


def places_of(segmentations: Sequence[ResultObject]) -> Mapping[str, Place]:
    """Each Segment by its Tracking ID, as the Segmentations that will leave have it.

    They are described in the first piece of a file; the rest can be 2 GB.
    """
    places: dict[str, Place] = {}
    for one in segmentations:
        head = dcmread(BytesIO(one.pieces[0]), specific_tags=["SegmentSequence"])
        for item in head.SegmentSequence:
            if "TrackingID" in item:  # the background of a LABELMAP has none
                place = Place(of_result(one.ref), int(item.SegmentNumber), str(item.TrackingUID))
                places.setdefault(str(item.TrackingID).strip(), place)
    return places


@dataclass(frozen=True)
class Groups:
    """What the groups of one report have in common."""

    model: Model
    quantity: Quantity | None
    caveats: Sequence[Caveat]
    places: Mapping[str, Place]
    source_series_uid: str

    def group(self, segment: Segment, measured: Measured) -> Any:
        """One Segment: what it is, where it is, what was measured. Raises Fatal without a place."""

        name = tracking_id(self.model, segment)
        place = self.places.get(name.strip())
        if place is None:
            raise Fatal(f'no Segmentation has "{name}", of which there are voxels to report')
        site = segment.region or (segment.type if segment.laterality else None)
        side = sr_code(segment.laterality) if segment.laterality else None
        group = VolumetricROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=TrackingIdentifier(place.tracking_uid, name),
            referenced_segment=ReferencedSegment(
                place.segmentation.sop_class_uid,
                place.segmentation.sop_instance_uid,
                place.segment_number,
                source_series=SourceSeriesForSegmentation(self.source_series_uid),
            ),
            finding_category=sr_code(segment.category),
            finding_type=sr_code(segment.type),
            finding_sites=[FindingSite(sr_code(site), side)] if site else None,
            algorithm_id=self._algorithm(),
            measurements=list(self._measurements(measured)),
        )
        group[0].ContinuityOfContent = "SEPARATE"  # a list, not a text: else names are not shown
        return group

    def _algorithm(self) -> Any:
        """TID 4019, in short; the Segmentation has it at length."""

        model = self.model
        return AlgorithmIdentification(
            name=long_string(model.title, profile_mark(model)),
            version=algorithm_version(model),
            parameters=[
                f"model={model.name}",
                f"configuration={model.configuration}",
                f"profile={model.profile}",
                f"fingerprint={model.fingerprint}",
                *(f"{caveat.name}={caveat.words}" for caveat in self.caveats),
            ],
            family=sr_code(_ARTIFICIAL_INTELLIGENCE),
            manufacturer=MANUFACTURER,
        )

    def _measurements(self, measured: Measured) -> Iterator[Any]:
        """TID 1419. What was not measured is not there."""
        yield _number(_VOLUME, measured.volume_ml, _MILLILITRE)
        yield _number(_DIAMETER, measured.diameter_mm, _MILLIMETRE)
        if self.quantity is None or measured.intensities is None:
            return
        concept, unit = self.quantity.concept, self.quantity.unit
        yield _number(concept, measured.intensities.mean, unit, _MEAN)
        yield _number(concept, measured.intensities.deviation, unit, _DEVIATION)


def _number(concept: Code, value: float, unit: Code, derivation: Code | None = None) -> Any:
    """Numeric Value alone: seven digits need no Floating Point Value (PS3.3 C.18.1)."""

    how = sr_code(derivation) if derivation else None
    measurement = Measurement(sr_code(concept), value, sr_code(unit), derivation=how)
    del measurement[0].MeasuredValueSequence[0].FloatingPointValue
    return measurement
