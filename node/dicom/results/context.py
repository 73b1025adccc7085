"""Whose result it is: patient, study, series, equipment, times."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from typing import Final

from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from node import __version__
from node.core.anatomy import Segment
from node.core.errors import Fatal
from node.core.model import Model, Profile
from node.core.uids import ResultUIDs, derive_uid
from node.core.verdict import Verdict
from node.dicom.elements import long_string, name_of, required
from node.dicom.receiver.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

RESEARCH_USE: Final = "Research use; not a medical device"
ORIENTATION_ASSUMED: Final = "orientation assumed"
MANUFACTURER: Final = "Segnode"
FIRST_SERIES_NUMBER: Final = 1000
_UTF_8 = "ISO_IR 192"  # PS3.3 C.12.1.1.2
_LARGEST_INTEGER_STRING = 2**31 - 1

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


def copy_context(dataset: Dataset, instance: Dataset) -> None:
    """The source's own values, however odd: the PACS must find the same patient and study."""
    for keyword in _PRESENT.split():
        setattr(dataset, keyword, None)
    for keyword in f"{_PRESENT} {_OPTIONAL}".split():
        try:
            if keyword in instance:
                dataset[keyword] = deepcopy(instance[keyword])
        except Exception as error:  # a value that cannot be decoded raises almost anything
            if keyword in ("PatientID", "PatientName"):
                raise Fatal(f"{keyword} of {name_of(instance)} cannot be decoded") from error


def identify(
    dataset: Dataset,
    instance: Dataset,
    uids: ResultUIDs,
    sop_class: UID,
    transfer_syntax: UID = ExplicitVRLittleEndian,
    in_space: bool = True,
) -> None:
    """UIDs and file meta. Raises Fatal where the source has no study or Frame of Reference.

    in_space: it has a Frame of Reference; documents have none.
    """
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = uids.sop_instance_uid
    dataset.SeriesInstanceUID = uids.series_instance_uid
    dataset.StudyInstanceUID = required(instance, "StudyInstanceUID")
    if in_space:
        dataset.FrameOfReferenceUID = required(instance, "FrameOfReferenceUID")
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = sop_class
    dataset.file_meta.MediaStorageSOPInstanceUID = UID(uids.sop_instance_uid)
    dataset.file_meta.TransferSyntaxUID = transfer_syntax
    dataset.file_meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    dataset.file_meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME


@dataclass(frozen=True)
class Caveat:
    """What a reader of the result must know. mark: in the Series Description. words: in full."""

    name: str
    words: str
    mark: str


def caveats_of(resampled: bool, verdict: Verdict | None) -> list[Caveat]:
    """Of a result whose slices were resampled, or whose source is not proven to be whole."""
    caveats = []
    if resampled:
        words = "onto a regular grid for the network; labels brought back to the source slices"
        caveats.append(Caveat("resampled", words, " (resampled)"))
    if verdict is not None and verdict is not Verdict.PROVEN:
        mark = f" (whole: {verdict})"
        caveats.append(Caveat("source whole", f"{verdict} when it was closed", mark))
    return caveats


@dataclass(frozen=True)
class SeriesKind:
    """What a Series of results is called. title: how its Series Description begins."""

    modality: str
    first_number: int
    title: str


_SEGMENTATIONS: Final = SeriesKind("SEG", FIRST_SERIES_NUMBER, "Segmentation: ")


def describe_series(
    dataset: Dataset,
    instance: Dataset,
    model: Model,
    caveats: Sequence[Caveat] = (),
    kind: SeriesKind = _SEGMENTATIONS,
    number: int = 1,
) -> None:
    """General Series and General Equipment, PS3.3 C.7.3.1 and C.7.5.1: a Model is a device.

    number: of the object in its Series.
    """
    dataset.Modality = kind.modality
    dataset.SeriesNumber = _series_number(instance, kind.first_number)
    dataset.InstanceNumber = number
    dataset.SeriesDescription = long_string(
        f"{kind.title}{model.title}",
        profile_mark(model) + "".join(caveat.mark for caveat in caveats),
    )
    dataset.Manufacturer = MANUFACTURER
    dataset.ManufacturerModelName = MANUFACTURER
    dataset.SoftwareVersions = __version__
    dataset.DeviceSerialNumber = model.fingerprint[:16]
    dataset.DeviceUID = device_uid(model)


def device_uid(model: Model) -> str:
    """Of the node with this Model: another as soon as either changes (IHE RAD AIR asks for it)."""
    return derive_uid("device", __version__, model.fingerprint)


def tracking_id(model: Model, segment: Segment) -> str:
    """What a Segment is called wherever it is tracked (PS3.3 C.8.20.2), alike in all objects."""
    return f"{model.name} {segment.number} {segment.label}"


def profile_mark(model: Model) -> str:
    """The end of every name of the result that people read, where the Model is not run exactly."""
    return "" if model.profile is Profile.EXACT else f" (profile {model.profile})"


def _series_number(instance: Dataset, first: int) -> int:
    """`first` above the source's Series Number; `first` where it has none that can be used."""
    try:
        number = int(instance.get("SeriesNumber") or 0)
    except Exception:  # several, words, 1e400: what is no whole number raises almost anything
        number = 0
    return first + (number if 0 <= number <= _LARGEST_INTEGER_STRING - first else 0)


def set_times(dataset: Dataset, instance: Dataset, created_at: float) -> None:
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


def set_character_set(dataset: Dataset, instance: Dataset, texts: Sequence[str]) -> None:
    """The source's character set; UTF-8, which holds all, where our own words need more."""
    if not all(text.isascii() for text in texts):
        dataset.SpecificCharacterSet = _UTF_8
    elif instance.get("SpecificCharacterSet"):
        dataset.SpecificCharacterSet = instance.SpecificCharacterSet


def words_of(model: Model, segments: Sequence[Segment]) -> list[str]:
    """All text in the result that a person wrote for the Model."""
    codes = [c for s in segments for c in (s.category, s.type, s.region, s.laterality) if c]
    labels = [segment.label for segment in segments]
    return [model.name, model.title, model.version, *labels, *(code.meaning for code in codes)]


def file_bytes(dataset: Dataset) -> bytes:
    """A data set as a DICOM file (PS3.10 7)."""
    buffer = BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()
