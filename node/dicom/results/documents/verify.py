"""The gate of the small documents: refusals and rejection notes are read again, with pydicom."""

from collections.abc import Collection, Sequence
from hashlib import sha256
from io import BytesIO

from pydicom import Dataset, dcmread
from pydicom.uid import BasicTextSRStorage, KeyObjectSelectionDocumentStorage

from node.core.errors import Fatal
from node.core.result import ObjectRef, ResultKind
from node.dicom.results.answer import Answer, ResultObject
from node.dicom.results.documents.tree import every, hierarchy, referred
from node.dicom.results.gate import Named, coded, require_equal, require_same_patient

_REJECTED = ("113001", "DCM")
_COMMENT = ("121106", "DCM")
_DESCRIPTION = ("113012", "DCM")
_RESEARCH = "not a medical device"


def verify_rejection(rejection: ResultObject, answer: Answer, given: Sequence[ObjectRef]) -> None:
    """Whether the note rejects what a Peer was given, and nothing else. Raises Fatal.

    given: as `encode_rejection` had it; notes among it stay.
    """
    replaced = [ref for ref in given if ref.kind is not ResultKind.REJECTION]
    try:
        dataset = dcmread(BytesIO(rejection.content))
        uids = answer.uids(ResultKind.REJECTION, _form(replaced))
        _require(dataset, rejection, answer.first, KeyObjectSelectionDocumentStorage)
        if str(dataset.SOPInstanceUID) != uids.sop_instance_uid:
            raise _wrong("its SOP Instance UID is not that of this Job")
        if coded(dataset.ConceptNameCodeSequence[0]) != _REJECTED:
            raise _wrong("its title is not Rejected for Quality Reasons")
        said = [str(item.TextValue) for item in every(dataset, _DESCRIPTION)]
        _require_words(said, ("Replaced by a later result", _RESEARCH))
        study = str(answer.first.StudyInstanceUID)
        _require_evidence(dataset, {(study, *_named(ref)) for ref in replaced})
        if sorted(referred(dataset)) != sorted({_named(ref)[1:] for ref in replaced}):
            raise _wrong("it does not refer to all that it replaces, or to more")
    except Fatal:
        raise
    except Exception as error:  # broken bytes make the parser raise almost anything
        raise _wrong(f"it cannot be read: {error!r}") from error


def _form(replaced: Sequence[ObjectRef]) -> str:
    """By which a note is told from one of other objects."""
    named = sorted({str(ref.sop_instance_uid) for ref in replaced})
    return sha256("\n".join(named).encode()).hexdigest()[:16]


def _named(ref: ObjectRef) -> tuple[str, str, str]:
    return str(ref.series_instance_uid), ref.sop_class_uid, str(ref.sop_instance_uid)


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
        _require_words(said, (words, "were not analysed", _RESEARCH))
        whole = str(source.StudyInstanceUID), str(source.SeriesInstanceUID)
        instances = referenced or [(str(source.SOPClassUID), str(source.SOPInstanceUID))]
        _require_evidence(dataset, {(*whole, sop_class, uid) for sop_class, uid in instances})
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


def _require_words(said: Sequence[str], needed: Sequence[str]) -> None:
    for words in needed:
        if not any(words in text for text in said):
            raise _wrong(f'it does not say "{words}"')


def _require_evidence(dataset: Dataset, expected: set[Named]) -> None:
    """Each Instance once: its Study, its Series, its class and itself."""
    found = hierarchy(dataset.CurrentRequestedProcedureEvidenceSequence)
    if found != sorted(expected):
        count = len(expected.symmetric_difference(found))
        raise _wrong(f"{count} instances of its evidence are wrong or missing")


def _wrong(sentence: str) -> Fatal:
    return Fatal(f"the document is wrong and must not leave (please report this): {sentence}")
