"""From a LabelMap to a DICOM Segmentation on the grid of its source Series (PS3.3 A.51).

The same input gives the same bytes, today and after any crash: UIDs are derived, times come in.
highdicom describes the Segments. Its Segmentation class is only the oracle of the tests: it stays
at 75 MB after its first use and reaches 115 MB on the way, in the process that receives.
"""

from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from typing import Final

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from highdicom.color import CIELabColor
from highdicom.seg import SegmentDescription
from numpy.typing import NDArray
from pydicom import DataElement, Dataset, dcmwrite
from pydicom.charset import convert_encodings, default_encoding
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.sr.coding import Code as SRCode
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian, SegmentationStorage
from pydicom.valuerep import DSfloat

from node import __version__
from node.core.anatomy import Code, Segment
from node.core.errors import Fatal
from node.core.model import Model
from node.core.uids import ResultUIDs, derive_uid
from node.core.volume import LabelMap
from node.dicom.inbox import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from node.dicom.series import SourceSeries

MANUFACTURER: Final = "Segnode"
RESEARCH_USE: Final = "Research use; not a medical device"
ORIENTATION_ASSUMED: Final = "orientation assumed"
FIRST_SERIES_NUMBER: Final = 1000

_UTF_8 = "ISO_IR 192"  # PS3.3 C.12.1.1.2
_LONG_STRING = 64  # characters of an LO, PS3.5 6.2
_LARGEST_INTEGER_STRING = 2**31 - 1
_ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")  # PS3.16 CID 7162
_SEGMENTATION = Code("113076", "DCM", "Segmentation")  # CID 7203
_SOURCE_IMAGE = Code("121322", "DCM", "Source image for image processing operation")  # CID 7202

# Type 2 of Patient, General Study and Frame of Reference (PS3.3 C.7.1.1, C.7.2.1, C.7.4.1): always
# there, and empty where the source has none.
_PRESENT = (
    "PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime "
    "ReferringPhysicianName StudyID AccessionNumber PositionReferenceIndicator"
)
# Type 1C and 3 of these, of Patient Study (C.7.2.2) and of the Clinical Trial Modules (C.7.1.3,
# C.7.2.3); the time zone, without which the dates mean nothing; and that the source is lossy, as
# then the result is too (C.7.6.1.1.5). Where the source has them.
_OPTIONAL = (
    "IssuerOfPatientID IssuerOfPatientIDQualifiersSequence TypeOfPatientID "
    "OtherPatientIDsSequence PatientBirthTime PatientSpeciesDescription "
    "PatientSpeciesCodeSequence PatientBreedDescription PatientBreedCodeSequence "
    "BreedRegistrationSequence ResponsiblePerson ResponsiblePersonRole ResponsibleOrganization "
    "PatientIdentityRemoved DeidentificationMethod DeidentificationMethodCodeSequence "
    "StudyDescription IssuerOfAccessionNumberSequence ReferencedStudySequence PatientAge "
    "PatientSize PatientWeight PatientSexNeutered AdmissionID IssuerOfAdmissionIDSequence "
    "ClinicalTrialSponsorName ClinicalTrialProtocolID ClinicalTrialProtocolName "
    "ClinicalTrialSiteID ClinicalTrialSiteName ClinicalTrialSubjectID "
    "ClinicalTrialSubjectReadingID ClinicalTrialTimePointID ClinicalTrialTimePointDescription "
    "TimezoneOffsetFromUTC LossyImageCompression LossyImageCompressionRatio "
    "LossyImageCompressionMethod"
)


@dataclass(frozen=True)
class _Frame:
    """One plane of one Segment. segment_number: in the Segmentation, 1 to n."""

    segment_number: int
    label: int
    slice_index: int


def encode(
    label_map: LabelMap, model: Model, source: SourceSeries, uids: ResultUIDs, created_at: float
) -> Dataset:
    """A BINARY Segmentation of the labels, each frame on the source Instance it lies on.

    Frames go by segment, then plane; empty ones are omitted, and so are Segments without a voxel.
    A LabelMap without any voxel becomes one empty frame for each Segment of the Model: "looked,
    and found nothing" is a result, and a Segmentation has at least one frame.
    created_at: seconds since the epoch. Raises Fatal where the labels or the headers forbid it.
    """
    instances = _in_slice_order(source, label_map)
    segments, frames = _contents(label_map, model)
    dataset = Dataset()
    _copy_context(dataset, instances[0])
    _identify(dataset, instances[0], uids)
    _describe_series(dataset, instances[0], model)
    _set_times(dataset, instances[0], created_at)
    _set_character_set(dataset, instances[0], _words(model, segments))
    _refer_to_source(dataset, instances)
    _describe_image(dataset, label_map, model)
    dataset.SegmentSequence = _descriptions(segments, model, uids)
    _set_dimensions(dataset, uids)
    dataset.SharedFunctionalGroupsSequence = [_shared_groups(instances[0], label_map)]
    dataset.PerFrameFunctionalGroupsSequence = _per_frame_groups(frames, instances)
    dataset.NumberOfFrames = len(frames)
    bits = _packed(label_map.array[f.slice_index] == f.label for f in frames)
    dataset.add_new("PixelData", "OB", bits)
    _write_as_it_is(dataset)
    return dataset


def file_bytes(segmentation: Dataset) -> bytes:
    """The Segmentation as a DICOM file (PS3.10 7)."""
    buffer = BytesIO()
    dcmwrite(buffer, segmentation, enforce_file_format=True)
    return buffer.getvalue()


def _in_slice_order(source: SourceSeries, label_map: LabelMap) -> list[Dataset]:
    """The Instance of each slice of the label map, found by its position. Raises Fatal."""
    to_grid = np.linalg.inv(label_map.affine)
    by_slice: dict[int, Dataset] = {}
    for instance in source.instances:
        _require_grid(instance, label_map)
        position = np.asarray(_required(instance, "ImagePositionPatient"), float)
        index = round(float((to_grid @ [*position, 1.0])[0]))
        if index in by_slice:
            raise Fatal(f"{_name(by_slice[index])} and {_name(instance)} lie on one slice")
        by_slice[index] = instance
    count = label_map.array.shape[0]
    if sorted(by_slice) != list(range(count)):
        raise Fatal(
            f"the {len(by_slice)} Instances of the Series do not lie on the {count} slices "
            "of the label map"
        )
    return [by_slice[index] for index in range(count)]


def _require_grid(instance: Dataset, label_map: LabelMap) -> None:
    shape = (_required(instance, "Rows"), _required(instance, "Columns"))
    if shape != label_map.array.shape[1:]:
        raise Fatal(
            f"{_name(instance)} has {shape[0]} × {shape[1]} pixels (rows, columns), the label "
            f"map {label_map.array.shape[1]} × {label_map.array.shape[2]}"
        )
    if _required(instance, "FrameOfReferenceUID") != label_map.frame_of_reference_uid:
        raise Fatal(f"{_name(instance)} is not in the label map's Frame of Reference")


def _contents(label_map: LabelMap, model: Model) -> tuple[list[Segment], list[_Frame]]:
    """The Segments to declare and their frames, in order. Raises Fatal for an unknown label.

    A Segment without a frame hangs a viewer (OHIF #3991), so it is not declared.
    """
    labels = [set(np.unique(plane).tolist()) - {0} for plane in label_map.array]
    present = set().union(*labels)
    unknown = sorted(present - {segment.number for segment in model.segments})
    if unknown:
        raise Fatal(f"label {unknown[0]} is in the label map, but {model.name} has no such Segment")
    if not model.segments:
        raise Fatal(f"{model.name} has no Segments: there is nothing to encode")
    segments = [s for s in model.segments if not present or s.number in present]
    middle = len(labels) // 2
    frames = [
        _Frame(number, segment.number, index)
        for number, segment in enumerate(segments, start=1)
        for index in range(len(labels))
        if segment.number in labels[index] or (not present and index == middle)
    ]
    return segments, frames


def _copy_context(dataset: Dataset, instance: Dataset) -> None:
    """The source's own values, however odd: the PACS must find the same patient and study."""
    for keyword in _PRESENT.split():
        setattr(dataset, keyword, None)
    for keyword in f"{_PRESENT} {_OPTIONAL}".split():
        try:
            if keyword in instance:
                dataset[keyword] = deepcopy(instance[keyword])
        except Exception as error:  # a value that cannot be decoded raises almost anything
            if keyword in ("PatientID", "PatientName"):
                raise Fatal(f"{keyword} of {_name(instance)} cannot be decoded") from error


def _identify(dataset: Dataset, instance: Dataset, uids: ResultUIDs) -> None:
    dataset.SOPClassUID = SegmentationStorage
    dataset.SOPInstanceUID = uids.sop_instance_uid
    dataset.SeriesInstanceUID = uids.series_instance_uid
    dataset.StudyInstanceUID = _required(instance, "StudyInstanceUID")
    dataset.FrameOfReferenceUID = _required(instance, "FrameOfReferenceUID")
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = SegmentationStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = UID(uids.sop_instance_uid)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    dataset.file_meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME


def _describe_series(dataset: Dataset, instance: Dataset, model: Model) -> None:
    """General Series and General Equipment, PS3.3 C.7.3.1 and C.7.5.1: a Model is a device."""
    dataset.Modality = "SEG"
    dataset.SeriesNumber = _series_number(instance)
    dataset.InstanceNumber = 1
    dataset.SeriesDescription = _long_string(f"Segmentation: {model.title}")
    dataset.Manufacturer = MANUFACTURER
    dataset.ManufacturerModelName = MANUFACTURER
    dataset.SoftwareVersions = __version__
    dataset.DeviceSerialNumber = model.fingerprint[:16]
    dataset.DeviceUID = derive_uid("device", __version__, model.fingerprint)


def _series_number(instance: Dataset) -> int:
    """1000 above the source's Series Number; 1000 where it has none, or none that can be used."""
    try:
        number = int(instance.get("SeriesNumber") or 0)
    except (TypeError, ValueError):
        number = 0
    usable = 0 <= number <= _LARGEST_INTEGER_STRING - FIRST_SERIES_NUMBER
    return FIRST_SERIES_NUMBER + (number if usable else 0)


def _set_times(dataset: Dataset, instance: Dataset, created_at: float) -> None:
    """created_at in the source's own time zone, so that it can be compared with its Study Time.

    Without a Timezone Offset From UTC (PS3.3 C.12.1.1.8) that is this machine's local time: an
    offset of ours would be said of the copied Study Date and Time too.
    """
    moment = datetime.fromtimestamp(created_at, UTC).astimezone()
    try:
        offset = datetime.strptime(str(instance.get("TimezoneOffsetFromUTC")), "%z").tzinfo
        moment = moment.astimezone(offset)
    except ValueError:
        pass  # there is none, or none that can be read
    for name in ("InstanceCreation", "Series", "Content"):
        setattr(dataset, f"{name}Date", moment.strftime("%Y%m%d"))
        setattr(dataset, f"{name}Time", moment.strftime("%H%M%S"))


def _set_character_set(dataset: Dataset, instance: Dataset, texts: Sequence[str]) -> None:
    """The source's character set; UTF-8, which holds all, where our own words need more."""
    if not all(text.isascii() for text in texts):
        dataset.SpecificCharacterSet = _UTF_8
    elif instance.get("SpecificCharacterSet"):
        dataset.SpecificCharacterSet = instance.SpecificCharacterSet


def _words(model: Model, segments: Sequence[Segment]) -> list[str]:
    """All text in the result that a person wrote for the Model."""
    codes = [c for s in segments for c in (s.category, s.type, s.region, s.laterality) if c]
    labels = [segment.label for segment in segments]
    return [model.name, model.title, model.version, *labels, *(code.meaning for code in codes)]


def _refer_to_source(dataset: Dataset, instances: Sequence[Dataset]) -> None:
    """Source Image Sequence, and Common Instance Reference (PS3.3 C.12.2), which OHIF needs."""
    series = Dataset()
    series.SeriesInstanceUID = _required(instances[0], "SeriesInstanceUID")
    series.ReferencedInstanceSequence = [_reference(instance) for instance in instances]
    dataset.ReferencedSeriesSequence = [series]
    dataset.SourceImageSequence = [_reference(instance) for instance in instances]


def _reference(instance: Dataset) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID = _required(instance, "SOPClassUID")
    reference.ReferencedSOPInstanceUID = _required(instance, "SOPInstanceUID")
    return reference


def _describe_image(dataset: Dataset, label_map: LabelMap, model: Model) -> None:
    """General Image and Segmentation Image Modules for one bit a voxel, PS3.3 C.8.20.2."""
    assumed = f"; {ORIENTATION_ASSUMED}" if model.orientation_assumed else ""
    dataset.ContentLabel = "SEGMENTATION"
    dataset.ContentDescription = RESEARCH_USE + assumed
    dataset.ContentCreatorName = None
    dataset.ImageType = ["DERIVED", "PRIMARY"]
    dataset.SegmentationType = "BINARY"
    dataset.SegmentsOverlap = "NO"
    dataset.Rows, dataset.Columns = label_map.array.shape[1:]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PresentationLUTShape = "IDENTITY"
    dataset.BitsAllocated = 1
    dataset.BitsStored = 1
    dataset.HighBit = 0
    dataset.PixelRepresentation = 0
    if not dataset.get("LossyImageCompression"):
        dataset.LossyImageCompression = "00"


def _descriptions(
    segments: Sequence[Segment], model: Model, uids: ResultUIDs
) -> list[SegmentDescription]:
    algorithm = _algorithm(model)
    return [
        _description(number, segment, model, uids, algorithm)
        for number, segment in enumerate(segments, start=1)
    ]


def _description(
    number: int,
    segment: Segment,
    model: Model,
    uids: ResultUIDs,
    algorithm: AlgorithmIdentificationSequence,
) -> SegmentDescription:
    """One item of the Segment Sequence, PS3.3 C.8.20.4; colour as PCS values, C.10.7.1.1."""
    description = SegmentDescription(
        segment_number=number,
        segment_label=_long_string(segment.label),
        segmented_property_category=_sr_code(segment.category),
        segmented_property_type=_sr_code(segment.type),
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
        tracking_id=f"{model.name} {segment.number} {segment.label}",
        tracking_uid=derive_uid("tracking", uids.sop_instance_uid, str(segment.number)),
        anatomic_regions=[_sr_code(segment.region)] if segment.region else None,
        display_color=CIELabColor.from_rgb(*segment.colour),
    )
    if segment.laterality:  # PS3.16 CID 244
        modified = description.SegmentedPropertyTypeCodeSequence[0]
        modified.SegmentedPropertyTypeModifierCodeSequence = [_code_item(segment.laterality)]
    return description


def _algorithm(model: Model) -> AlgorithmIdentificationSequence:
    """Which Model, exactly (PS3.3 10.16)."""
    return AlgorithmIdentificationSequence(
        name=_long_string(model.title),
        family=_sr_code(_ARTIFICIAL_INTELLIGENCE),
        version=_long_string(f"{model.version[:48]} {model.fingerprint[:12]}"),
        parameters={
            "model": model.name,
            "configuration": model.configuration,
            "folds": "+".join(model.folds),
            "checkpoint": model.checkpoint_name,
            "orientation": model.orientation + " (assumed)" * model.orientation_assumed,
            "fingerprint": model.fingerprint,
        },
    )


def _set_dimensions(dataset: Dataset, uids: ResultUIDs) -> None:
    """Frames are told apart by segment, then by position (PS3.3 C.7.6.17)."""
    organization = Dataset()
    organization.DimensionOrganizationUID = derive_uid("dimensions", uids.sop_instance_uid)
    dataset.DimensionOrganizationSequence = [organization]
    dataset.DimensionIndexSequence = [
        _dimension(organization, "SegmentIdentificationSequence", "ReferencedSegmentNumber"),
        _dimension(organization, "PlanePositionSequence", "ImagePositionPatient"),
    ]


def _dimension(organization: Dataset, group: str, keyword: str) -> Dataset:
    dimension = Dataset()
    dimension.DimensionOrganizationUID = organization.DimensionOrganizationUID
    dimension.DimensionIndexPointer = Tag(keyword)
    dimension.FunctionalGroupPointer = Tag(group)
    dimension.DimensionDescriptionLabel = keyword
    return dimension


def _shared_groups(instance: Dataset, label_map: LabelMap) -> Dataset:
    """Orientation and spacing of all frames, as the first Instance states them."""
    orientation = Dataset()
    orientation.ImageOrientationPatient = _required(instance, "ImageOrientationPatient")
    measures = Dataset()
    measures.PixelSpacing = _required(instance, "PixelSpacing")
    slice_spacing = float(np.linalg.norm(label_map.affine[:3, 0]))
    measures.SpacingBetweenSlices = DSfloat(slice_spacing, auto_format=True)
    measures.SliceThickness = DSfloat(slice_spacing, auto_format=True)  # of the result: no gaps
    shared = Dataset()
    shared.PlaneOrientationSequence = [orientation]
    shared.PixelMeasuresSequence = [measures]
    return shared


def _per_frame_groups(frames: Sequence[_Frame], instances: Sequence[Dataset]) -> list[Dataset]:
    """The Per-Frame Functional Groups, PS3.3 A.51.5: which Segment, which plane."""
    slices = sorted({frame.slice_index for frame in frames})
    order = {index: place for place, index in enumerate(slices, start=1)}
    planes = {index: _plane_groups(instances[index]) for index in slices}
    groups = []
    for frame in frames:
        content, segment, item = Dataset(), Dataset(), Dataset()
        content.DimensionIndexValues = [frame.segment_number, order[frame.slice_index]]
        segment.ReferencedSegmentNumber = frame.segment_number
        item.FrameContentSequence = [content]
        item.SegmentIdentificationSequence = [segment]
        for element in planes[frame.slice_index]:
            item[element.tag] = element
        _write_as_it_is(item)
        groups.append(item)
    return groups


def _plane_groups(instance: Dataset) -> list[DataElement | RawDataElement]:
    """Where a plane lies and which Instance it was made from: viewers match frames by both.

    As bytes: encoded once for the frames of all Segments there, 1 ms each time.
    """
    position, derivation, groups = Dataset(), Dataset(), Dataset()
    position.ImagePositionPatient = _required(instance, "ImagePositionPatient")
    origin = _reference(instance)
    origin.SpatialLocationsPreserved = "YES"
    origin.PurposeOfReferenceCodeSequence = [_code_item(_SOURCE_IMAGE)]
    derivation.SourceImageSequence = [origin]
    derivation.DerivationCodeSequence = [_code_item(_SEGMENTATION)]
    groups.PlanePositionSequence = [position]
    groups.DerivationImageSequence = [derivation]
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, groups)
    encoded = read_dataset(BytesIO(buffer.getvalue()), is_implicit_VR=False, is_little_endian=True)
    return [encoded.get_item(element.tag) for element in groups]


def _write_as_it_is(dataset: Dataset) -> None:
    """Spares pydicom the search for ambiguous VRs, of which we have none: four times faster."""
    characters = dataset.get("SpecificCharacterSet")
    encoding = convert_encodings(characters) if characters else default_encoding
    dataset.set_original_encoding(
        is_implicit_vr=False, is_little_endian=True, character_encoding=encoding
    )


def _packed(masks: Iterable[NDArray[np.bool_]]) -> bytes:
    """All frames as one run of bits, lowest bit first, without a gap between frames; even length.

    The rule is PS3.5 8.1.1; a frame whose pixels are no multiple of 8 shares a byte with the next.
    """
    packed, rest = [], np.empty(0, np.bool_)
    for mask in masks:
        bits = np.concatenate([rest, mask.ravel()])
        whole = bits.size // 8 * 8
        packed.append(np.packbits(bits[:whole], bitorder="little").tobytes())
        rest = bits[whole:]
    packed.append(np.packbits(rest, bitorder="little").tobytes())
    joined = b"".join(packed)
    return joined + b"\0" * (len(joined) % 2)


def _sr_code(code: Code) -> SRCode:
    return SRCode(code.value, code.scheme, _long_string(code.meaning))


def _code_item(code: Code) -> Dataset:
    """A Code Sequence item, PS3.3 8.8."""
    item = Dataset()
    item.CodeValue = code.value
    item.CodingSchemeDesignator = code.scheme
    item.CodeMeaning = _long_string(code.meaning)
    return item


def _required(instance: Dataset, keyword: str) -> object:
    value = instance.get(keyword)
    if value is None or value == "":
        raise Fatal(f"{_name(instance)} has no {keyword}: a Segmentation cannot lie on it")
    return value


def _name(instance: Dataset) -> str:
    return f"Instance {instance.get('SOPInstanceUID') or 'without UID'}"


def _long_string(text: str) -> str:
    """Text as an LO: one line, no backslash, at most 64 characters (PS3.5 6.2)."""
    printable = "".join(c if c.isprintable() else " " for c in text.replace("\\", "/"))
    return printable.strip()[:_LONG_STRING].strip()
