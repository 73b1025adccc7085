"""What all our documents share: reports, refusals and notes of rejection (PS3.3 C.17).

highdicom builds the content; the data set around it is our own, as for a Segmentation: highdicom's
would draw random UIDs and the time of day, and loads 75 MB of tables of the Standard.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from highdicom.sr import (
    CodedConcept,
    ContainerContentItem,
    ContentSequence,
    DeviceObserverIdentifyingAttributes,
    ObserverContext,
    RelationshipTypeValues,
    TextContentItem,
)
from pydicom import Dataset
from pydicom.uid import UID

from node import __version__
from node.core.anatomy import Code
from node.core.model import Model
from node.core.result import ObjectRef
from node.core.uids import ResultUIDs
from node.dicom.elements import code_item, long_string, required, sr_code
from node.dicom.results.context import (
    MANUFACTURER,
    RESEARCH_USE,
    Caveat,
    SeriesKind,
    copy_context,
    describe_series,
    device_uid,
    identify,
    profile_mark,
    set_character_set,
    set_times,
)

COMMENT: Final = Code("121106", "DCM", "Comment")
FINDING: Final = Code("121071", "DCM", "Finding")
SOURCE: Final = Code("260753009", "SCT", "Source")  # for references without another purpose
_PROCESSING_EQUIPMENT: Final = Code("109102", "DCM", "Processing Equipment")  # CID 7005
_DEVICE: Final = Code("121007", "DCM", "Device")  # CID 270

# Of images and of Frames of Reference: documents have neither module.
_OF_IMAGES = (
    "PositionReferenceIndicator LossyImageCompression LossyImageCompressionRatio "
    "LossyImageCompressionMethod"
)


@dataclass(frozen=True)
class Reference:
    """An Instance in a Series. study_instance_uid: "" where it is that of the document."""

    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str = ""


def reference_to(instance: Dataset) -> Reference:
    """A source Instance. Raises Fatal where it has no UIDs."""
    return Reference(
        str(required(instance, "SeriesInstanceUID")),
        str(required(instance, "SOPClassUID")),
        str(required(instance, "SOPInstanceUID")),
        str(required(instance, "StudyInstanceUID")),
    )


def of_result(ref: ObjectRef) -> Reference:
    """A result object, of this Job or an earlier one."""
    return Reference(ref.series_instance_uid, ref.sop_class_uid, ref.sop_instance_uid)


def new_document(
    source: Dataset,
    model: Model,
    uids: ResultUIDs,
    sop_class: UID,
    kind: SeriesKind,
    created_at: float,
    texts: Sequence[str],
    caveats: Sequence[Caveat] = (),
) -> Dataset:
    """A document without content, of the patient and the Study of a source Instance.

    created_at: seconds since the epoch. texts: all that a person wrote, for the character set.
    """
    dataset = Dataset()
    copy_context(dataset, source)
    for keyword in _OF_IMAGES.split():
        if keyword in dataset:
            delattr(dataset, keyword)
    identify(dataset, source, uids, sop_class, in_space=False)
    describe_series(dataset, source, model, caveats, kind)
    set_times(dataset, source, created_at)
    set_character_set(dataset, source, texts)
    dataset.ReferencedPerformedProcedureStepSequence = []  # Type 2, PS3.3 C.17.1
    dataset.ContributingEquipmentSequence = [_equipment(model)]
    return dataset


def describe_report(dataset: Dataset) -> None:
    """SR Document General, PS3.3 C.17.2: complete, and nobody has looked at it."""
    dataset.CompletionFlag = "COMPLETE"
    dataset.VerificationFlag = "UNVERIFIED"
    dataset.PreliminaryFlag = "PRELIMINARY"
    dataset.PerformedProcedureCodeSequence = []  # Type 2


def _equipment(model: Model) -> Dataset:
    """Contributing Equipment, PS3.3 C.12.1: the node with this Model, as IHE RAD AIR asks.

    The Device UID changes with the Model; the model name is that of the network, as the node's
    own stands in General Equipment.
    """
    item = Dataset()
    item.Manufacturer = MANUFACTURER
    item.ManufacturerModelName = long_string(model.title, profile_mark(model))
    item.DeviceSerialNumber = model.fingerprint[:16]
    item.SoftwareVersions = [__version__, algorithm_version(model)]
    item.DeviceUID = device_uid(model)
    item.ContributionDescription = RESEARCH_USE
    item.PurposeOfReferenceCodeSequence = [code_item(_PROCESSING_EQUIPMENT)]
    return item


def algorithm_version(model: Model) -> str:
    """The Model's own version, and which files it is."""
    return long_string(f"{model.version[:48]} {model.fingerprint[:12]}")


def observer(model: Model) -> list[Any]:
    """Observer Context, PS3.16 TID 1002 and 1004: a device made the observations."""

    device = DeviceObserverIdentifyingAttributes(
        uid=device_uid(model),
        name=long_string(model.title, profile_mark(model)),
        manufacturer_name=MANUFACTURER,
        model_name=MANUFACTURER,
        serial_number=model.fingerprint[:16],
    )
    return list(ObserverContext(CodedConcept.from_code(sr_code(_DEVICE)), device))


def comment(text: str, name: Code = COMMENT) -> Any:
    """A sentence for people."""

    return TextContentItem(sr_code(name), text, RelationshipTypeValues.CONTAINS)


def set_content(dataset: Dataset, title: Code, template: str | None, items: Iterable[Any]) -> None:
    """The root of the content tree and what it holds, PS3.3 C.17.3. template: of PS3.16 (DCMR)."""

    root = ContainerContentItem(sr_code(title), is_content_continuous=False, template_id=template)
    root.ContentSequence = ContentSequence(list(items))
    for element in root:
        dataset[element.tag] = element


def references_of(dataset: Dataset, references: Iterable[Reference]) -> list[Dataset]:
    """A Hierarchical SOP Instance Reference, PS3.3 10.2: Studies, their Series, their Instances."""
    by_study: dict[str, dict[str, list[Dataset]]] = {}
    for one in references:
        item = Dataset()
        item.ReferencedSOPClassUID = one.sop_class_uid
        item.ReferencedSOPInstanceUID = one.sop_instance_uid
        by_series = by_study.setdefault(one.study_instance_uid or dataset.StudyInstanceUID, {})
        by_series.setdefault(one.series_instance_uid, []).append(item)
    return [_study(uid, by_series) for uid, by_series in by_study.items()]


def _study(uid: str, by_series: Mapping[str, list[Dataset]]) -> Dataset:
    study = Dataset()
    study.StudyInstanceUID = uid
    study.ReferencedSeriesSequence = [_series(uid, items) for uid, items in by_series.items()]
    return study


def _series(uid: str, items: list[Dataset]) -> Dataset:
    series = Dataset()
    series.SeriesInstanceUID = uid
    series.ReferencedSOPSequence = items
    return series
