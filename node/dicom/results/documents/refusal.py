"""A Series that a Route wanted and that has no result: a document that says so, and why.

Basic Text SR (PS3.3 A.35.1): every archive takes it and every viewer shows it as the few sentences
it is, where a measurement report without measurements shows as an empty table. Its title is "No
result", a code of our own: under any title of CID 7000 a worklist would count it as a report of a
radiologist, and none there says that nothing was looked at.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from highdicom.sr import CodedConcept, UIDRefContentItem
from pydicom import Dataset
from pydicom.uid import BasicTextSRStorage

from node.core.anatomy import Code
from node.core.model import Model
from node.core.names import SOPInstanceUID
from node.core.result import Identity, ObjectRef, ResultKind
from node.core.uids import ResultUIDs, derive_uid
from node.dicom.elements import sr_code
from node.dicom.results.answer import ResultObject
from node.dicom.results.context import MANUFACTURER, RESEARCH_USE, SeriesKind, file_bytes
from node.dicom.results.documents.document import (
    Reference,
    comment,
    describe_report,
    new_document,
    observer,
    reference_to,
    references_of,
    set_content,
)

MAX_REASON: Final = 1000  # characters: a screen of them; what is longer stands in the log
NOT_LOOKED_AT: Final = "The images were not analysed: nothing follows from the absence of findings"

_SERIES: Final = SeriesKind("SR", 2500, "No result: ")
_SCHEME: Final = "99SEGNODE"
_TITLE: Final = Code("NO_RESULT", _SCHEME, "No result")
_SOURCE_SERIES: Final = Code("112002", "DCM", "Series Instance UID")
_TRACEBACK: Final = "Traceback (most recent call last)"


def encode_refusal(
    source: Dataset,
    route: str,
    model_title: str,
    model: Model,
    reason: str,
    identity: Identity,
    created_at: float,
    referenced: Sequence[tuple[str, str]],
) -> ResultObject:
    """That `route` has no result of the source's Series, and the reason in words.

    source: a header of the Series. referenced: SOP Class and SOP Instance UIDs of its Instances.
    Another reason makes another document in the same Series; the same one is the same document.
    Raises Fatal where the source has no Study or Series.
    """
    words = in_words(reason)
    uids = _uids(identity, route, words)
    first = reference_to(source)
    dataset = new_document(
        source,
        model,
        uids,
        BasicTextSRStorage,
        _SERIES,
        created_at,
        [route, model_title, model.title, model.version, words],
    )
    describe_report(dataset)
    dataset.CodingSchemeIdentificationSequence = [_scheme()]
    items = _content(model, in_words(route), in_words(model_title), words, first)
    set_content(dataset, _TITLE, None, items)
    dataset.CurrentRequestedProcedureEvidenceSequence = references_of(
        dataset,
        [Reference(first.series_instance_uid, *one) for one in referenced] or [first],
    )
    ref = ObjectRef(
        ResultKind.REFUSAL, "", BasicTextSRStorage, uids.series_instance_uid, uids.sop_instance_uid
    )
    return ResultObject(ref, (file_bytes(dataset),))


def in_words(reason: str) -> str:
    """A reason as one line that a person can read: no control characters, no traceback, no end."""
    told = reason.partition(_TRACEBACK)[0]
    line = " ".join("".join(c if c.isprintable() else " " for c in told).split())
    line = line or "an error of the node, which its log tells of"
    return line if len(line) <= MAX_REASON else line[: MAX_REASON - 4].rstrip() + " ..."


def _uids(identity: Identity, route: str, words: str) -> ResultUIDs:
    of_model = identity.uids(ResultKind.REFUSAL)
    instance = derive_uid("refusal", of_model.sop_instance_uid, route, words)
    return ResultUIDs(of_model.series_instance_uid, SOPInstanceUID(instance))


def _content(
    model: Model, route: str, model_title: str, words: str, source: Reference
) -> Iterator[Any]:
    yield from observer(model)
    yield comment(f"No result of {model_title} (route {route}): {words}")
    yield comment(NOT_LOOKED_AT)
    yield comment(RESEARCH_USE)
    yield UIDRefContentItem(
        CodedConcept.from_code(sr_code(_SOURCE_SERIES)), source.series_instance_uid, "CONTAINS"
    )


def _scheme() -> Dataset:
    """Whose code the title is, PS3.3 C.12.1.1.7."""
    item = Dataset()
    item.CodingSchemeDesignator = _SCHEME
    item.CodingSchemeName = MANUFACTURER
    item.CodingSchemeResponsibleOrganization = MANUFACTURER
    return item
