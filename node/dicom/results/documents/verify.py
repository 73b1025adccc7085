"""The gate of the small documents: refusals and rejection notes are read again, with pydicom."""

from collections.abc import Collection, Iterator, Sequence
from io import BytesIO

from pydicom import Dataset, dcmread
from pydicom.uid import BasicTextSRStorage, KeyObjectSelectionDocumentStorage

from node.core.errors import Fatal
from node.core.result import ResultKind
from node.dicom.results.answer import Answer, ResultObject
from node.dicom.results.documents.tree import every
from node.dicom.results.gate import coded, require_equal, require_same_patient

_REJECTED = ("113001", "DCM")
_COMMENT = ("121106", "DCM")


def verify_rejection(rejection: ResultObject, answer: Answer) -> None:
    """Whether the note rejects all that came before, and nothing else. Raises Fatal."""
    replaced = {
        (str(ref.series_instance_uid), str(ref.sop_instance_uid))
        for ref in answer.predecessors
        if ref.kind is not ResultKind.REJECTION
    }
    try:
        dataset = dcmread(BytesIO(rejection.content))
        uids = answer.uids(ResultKind.REJECTION)
        _require(dataset, rejection, answer.first, KeyObjectSelectionDocumentStorage)
        if str(dataset.SOPInstanceUID) != uids.sop_instance_uid:
            raise _wrong("its SOP Instance UID is not that of this Job")
        if coded(dataset.ConceptNameCodeSequence[0]) != _REJECTED:
            raise _wrong("its title is not Rejected for Quality Reasons")
        _require_evidence(dataset, replaced)
        if set(_referred(dataset)) != {uid for _, uid in replaced}:
            raise _wrong("it does not refer to all that it replaces, or to more")
    except Fatal:
        raise
    except Exception as error:  # broken bytes make the parser raise almost anything
        raise _wrong(f"it cannot be read: {error!r}") from error


def verify_refusal(
    refusal: ResultObject, source: Dataset, words: str, referenced: Collection[tuple[str, str]]
) -> None:
    """Whether the document gives the reason, of the right Series. Raises Fatal.

    words: what must stand in it. referenced: as `encode_refusal` was given them.
    """
    try:
        dataset = dcmread(BytesIO(refusal.content))
        _require(dataset, refusal, source, BasicTextSRStorage)
        said = [str(item.TextValue) for item in every(dataset, _COMMENT)]
        for needed in (words, "were not analysed", "not a medical device"):
            if not any(needed in text for text in said):
                raise _wrong(f'it does not say "{needed}"')
        instances = {uid for _, uid in referenced} or {str(source.SOPInstanceUID)}
        _require_evidence(dataset, {(str(source.SeriesInstanceUID), uid) for uid in instances})
    except Fatal:
        raise
    except Exception as error:  # broken bytes make the parser raise almost anything
        raise _wrong(f"it cannot be read: {error!r}") from error


def _require(dataset: Dataset, document: ResultObject, source: Dataset, sop_class: str) -> None:
    """Same patient and Study, and the object that its name says."""
    require_same_patient(dataset, source, _wrong)
    stated = {
        "SOP Class": (dataset.SOPClassUID, sop_class),
        "SOP Class by name": (document.ref.sop_class_uid, sop_class),
        "SOP Instance UID": (dataset.SOPInstanceUID, document.ref.sop_instance_uid),
        "Series Instance UID": (dataset.SeriesInstanceUID, document.ref.series_instance_uid),
    }
    require_equal(stated, _wrong)


def _require_evidence(dataset: Dataset, expected: set[tuple[str, str]]) -> None:
    found = {
        (str(series.SeriesInstanceUID), str(item.ReferencedSOPInstanceUID))
        for study in dataset.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    if found != expected:
        raise _wrong(f"{len(found ^ expected)} instances of its evidence are wrong or missing")


def _referred(dataset: Dataset) -> Iterator[str]:
    items: Sequence[Dataset] = dataset.ContentSequence
    for item in items:
        for reference in item.get("ReferencedSOPSequence") or []:
            yield str(reference.ReferencedSOPInstanceUID)


def _wrong(sentence: str) -> Fatal:
    return Fatal(f"the document is wrong and must not leave (please report this): {sentence}")
