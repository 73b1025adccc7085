"""From an Answer to a report of its measurements: Comprehensive 3D SR, PS3.16 TID 1500.

One group for each Segment with a voxel (TID 1411): what it is, where the Segmentation has it, and
its volume, diameter and intensities. The report is the root of the result, as IHE RAD AIR asks:
it names the Segmentations, their source, and the algorithm.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from highdicom.sr import (
    CodeContentItem,
    CodedConcept,
    ContainerContentItem,
    ContentSequence,
    ImageContentItem,
    LanguageOfContentItemAndDescendants,
    RelationshipTypeValues,
    UIDRefContentItem,
)
from pydicom import Dataset
from pydicom.uid import Comprehensive3DSRStorage

from node.core.anatomy import Code, Segment
from node.core.model import Model
from node.core.result import ObjectRef, ResultKind
from node.dicom.elements import sr_code
from node.dicom.results.answer import Answer, ResultObject
from node.dicom.results.context import (
    RESEARCH_USE,
    Caveat,
    SeriesKind,
    caveats_of,
    file_bytes,
    words_of,
)
from node.dicom.results.documents.document import (
    FINDING,
    SOURCE,
    comment,
    describe_report,
    new_document,
    observer,
    of_result,
    reference_to,
    references_of,
    set_content,
)
from node.dicom.results.report.groups import Groups, places_of
from node.dicom.results.report.measurements import measure
from node.dicom.results.report.units import Quantity, quantity_of
from node.dicom.results.segmentation.segments import CHANGES

_SERIES: Final = SeriesKind("SR", 2000, "Research use: measurements, ")

_TITLE = Code("126000", "DCM", "Imaging Measurement Report")  # PS3.16 CID 7021
_MEASUREMENTS = Code("126010", "DCM", "Imaging Measurements")
_EVALUATIONS = Code("C0034375", "UMLS", "Qualitative Evaluations")
_NOT_DETECTED = Code("260415000", "SCT", "Not detected")
_LIBRARY = Code("111028", "DCM", "Image Library")
_LIBRARY_GROUP = Code("126200", "DCM", "Image Library Group")
_MODALITY = Code("121139", "DCM", "Modality")
_FRAME_OF_REFERENCE = Code("112227", "DCM", "Frame of Reference UID")
_PROCEDURE_REPORTED = Code("121058", "DCM", "Procedure Reported")

# By Modality, PS3.16 CID 100 and CID 29; all that the node takes.
_PROCEDURES: Final = {
    "CT": Code("25045-6", "LN", "CT unspecified body region"),
    "MR": Code("25056-3", "LN", "MRI unspecified body region"),
    "PT": Code("44136-0", "LN", "PET unspecified body region"),
}
_IMAGING_PROCEDURE = Code("363679005", "SCT", "Imaging procedure")
_MODALITIES: Final = {
    "CT": Code("CT", "DCM", "Computed Tomography"),
    "MR": Code("MR", "DCM", "Magnetic Resonance"),
    "PT": Code("PT", "DCM", "Positron emission tomography"),
}
_OTHER_MODALITY = Code("OT", "DCM", "Other Modality")


def encode_report(
    answer: Answer, segmentations: Sequence[ResultObject], form_name: str
) -> ResultObject:
    """The measurements of each Segment that has a voxel, and which have none.

    segmentations: all parts of the Segmentation of this form, which is named SegForm.name.
    Raises Fatal where they do not have the Segments that the labels have.
    """
    sources = _sources(answer)
    uids = answer.uids(ResultKind.REPORT, form_name)
    texts = words_of(answer.model, answer.model.segments)
    caveats = caveats_of(answer.label_map.positions is not None, answer.verdict)
    dataset = new_document(
        sources[0],
        answer.model,
        uids,
        Comprehensive3DSRStorage,
        _SERIES,
        answer.created_at,
        texts,
        caveats,
    )
    describe_report(dataset)
    set_content(dataset, _TITLE, "1500", _content(answer, segmentations, sources, caveats))
    images = [one for series in (sources, *answer.further) for one in series]
    dataset.CurrentRequestedProcedureEvidenceSequence = references_of(
        dataset,
        [*map(reference_to, images), *(of_result(one.ref) for one in segmentations)],
    )
    earlier = [of_result(ref) for ref in answer.predecessors if ref.kind is ResultKind.REPORT]
    if earlier:
        dataset.PredecessorDocumentsSequence = references_of(dataset, earlier)
    ref = ObjectRef(
        ResultKind.REPORT,
        form_name,
        Comprehensive3DSRStorage,
        uids.series_instance_uid,
        uids.sop_instance_uid,
    )
    return ResultObject(ref, (file_bytes(dataset),))


def _sources(answer: Answer) -> list[Dataset]:
    """The Instances that the labels lie on, each once, in the order of the slices."""
    by_uid = {str(one.get("SOPInstanceUID")): one for one in answer.source.instances}
    return [by_uid[uid] for uid in dict.fromkeys(one.sop_instance_uid for one in answer.planes)]


def _series_uid(sources: Sequence[Dataset]) -> str:
    return reference_to(sources[0]).series_instance_uid


def _content(
    answer: Answer,
    segmentations: Sequence[ResultObject],
    sources: Sequence[Dataset],
    caveats: Sequence[Caveat],
) -> Iterator[Any]:
    """The rows of TID 1500, and what a person must know before them."""

    model, modality = answer.model, str(sources[0].get("Modality") or "")
    measured = measure(answer.label_map, answer.predicted, answer.volume)
    found = [segment for segment in model.segments if segment.number in measured]
    yield from LanguageOfContentItemAndDescendants(CodedConcept("en", "RFC5646", "English"))
    yield from observer(model)
    yield _code(
        _PROCEDURE_REPORTED, _PROCEDURES.get(modality, _IMAGING_PROCEDURE), "HAS CONCEPT MOD"
    )
    quantity = quantity_of(sources[0])
    yield from map(comment, _remarks(model, caveats, quantity))
    yield _container(_LIBRARY, [*map(_library_group, (sources, *answer.further))])
    if found:
        groups = Groups(model, quantity, caveats, places_of(segmentations), _series_uid(sources))
        rows = [groups.group(segment, measured[segment.number]) for segment in found]
        yield _container(_MEASUREMENTS, [item for row in rows for item in row])
    if len(found) < len(model.segments):
        missing = [segment for segment in model.segments if segment not in found]
        yield _not_detected(missing)


def _remarks(model: Model, caveats: Sequence[Caveat], quantity: Quantity | None) -> Iterator[str]:
    yield RESEARCH_USE
    if model.orientation_assumed:
        yield f"The orientation of the training images is assumed to be {model.orientation}"
    if model.profile in CHANGES:
        yield f"Made with the profile {model.profile}: {CHANGES[model.profile]}"
    for caveat in caveats:
        yield f"{caveat.name.capitalize()}: {caveat.words}"
    if quantity is None:
        yield "Intensities are left out: the header of the images does not say what they measure"


def _library_group(images: Sequence[Dataset]) -> Any:
    """TID 1602: images that the network saw, of one Series as they have one space."""

    modality = str(images[0].get("Modality") or "")
    items = [_code(_MODALITY, _MODALITIES.get(modality, _OTHER_MODALITY), "HAS ACQ CONTEXT")]
    if images[0].get("FrameOfReferenceUID"):
        items.append(
            UIDRefContentItem(
                sr_code(_FRAME_OF_REFERENCE), images[0].FrameOfReferenceUID, "HAS ACQ CONTEXT"
            )
        )
    for one in images:
        image = reference_to(one)
        items.append(
            ImageContentItem(
                sr_code(SOURCE),
                image.sop_class_uid,
                image.sop_instance_uid,
                relationship_type="CONTAINS",
            )
        )
    return _container(_LIBRARY_GROUP, items)


def _not_detected(segments: Sequence[Segment]) -> Any:
    """Row 12 of TID 1500: that the network looked for them is a result too."""

    names = ", ".join(segment.label for segment in segments)
    contains = RelationshipTypeValues.CONTAINS.value
    return _container(
        _EVALUATIONS,
        [
            _code(FINDING, _NOT_DETECTED, contains),
            comment(f"No voxel belongs to {names}", FINDING),
        ],
    )


def _code(name: Code, value: Code, relationship: str) -> Any:

    return CodeContentItem(sr_code(name), sr_code(value), relationship)


def _container(name: Code, items: Sequence[Any]) -> Any:

    container = ContainerContentItem(
        sr_code(name), is_content_continuous=False, relationship_type="CONTAINS"
    )
    container.ContentSequence = ContentSequence(items)
    return container
