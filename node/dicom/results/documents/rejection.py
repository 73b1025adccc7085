"""A note that earlier results are replaced: Key Object Selection, IHE RAD IOCM (RAD-66).

An archive that knows IOCM hides what the note refers to; one that does not shows the note.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from highdicom.sr import CompositeContentItem, ImageContentItem
from pydicom.uid import KeyObjectSelectionDocumentStorage

from node.core.anatomy import Code
from node.core.errors import Fatal
from node.core.model import Model
from node.core.result import ObjectRef, ResultKind, rejected, rejection_form
from node.dicom.elements import sr_code
from node.dicom.results.answer import Answer, ResultObject
from node.dicom.results.context import RESEARCH_USE, SeriesKind, file_bytes
from node.dicom.results.documents.document import (
    SOURCE,
    comment,
    new_document,
    observer,
    of_result,
    references_of,
    set_content,
)

_SERIES: Final = SeriesKind("KO", 2900, "Research use: replaced, ")
_TITLE: Final = Code("113001", "DCM", "Rejected for Quality Reasons")  # PS3.16 CID 7010
_DESCRIPTION: Final = Code("113012", "DCM", "Key Object Description")
_IMAGES: Final = (ResultKind.SEGMENTATION, ResultKind.CAPTURE)


def encode_rejection(answer: Answer, given: Sequence[ObjectRef]) -> ResultObject:
    """That this Answer replaces what a Peer was given of earlier ones. Raises Fatal without any.

    A Peer that had less gets another note: an archive need not know what the note refers to
    otherwise. Notes among what was given stay. The order of it does not matter.
    """
    replaced = rejected(given)
    if not replaced:
        raise Fatal("there is no earlier result: a rejection note has nothing to refer to")
    form = rejection_form(replaced)
    uids = answer.uids(ResultKind.REJECTION, form)
    model = answer.model
    dataset = new_document(
        answer.first,
        model,
        uids,
        KeyObjectSelectionDocumentStorage,
        _SERIES,
        answer.created_at,
        [model.title, model.version],
    )
    set_content(dataset, _TITLE, "2010", _content(model, replaced))
    dataset.CurrentRequestedProcedureEvidenceSequence = references_of(
        dataset, map(of_result, replaced)
    )
    ref = ObjectRef(
        ResultKind.REJECTION,
        form,
        KeyObjectSelectionDocumentStorage,
        uids.series_instance_uid,
        uids.sop_instance_uid,
    )
    return ResultObject(ref, (file_bytes(dataset),))


def _content(model: Model, replaced: Sequence[ObjectRef]) -> Iterator[Any]:
    """TID 2010. Why, in words, and each object."""
    yield from observer(model)
    yield comment(f"Replaced by a later result for the same Series. {RESEARCH_USE}", _DESCRIPTION)
    for ref in replaced:
        kind = ImageContentItem if ref.kind in _IMAGES else CompositeContentItem
        yield kind(
            sr_code(SOURCE),
            referenced_sop_class_uid=ref.sop_class_uid,
            referenced_sop_instance_uid=ref.sop_instance_uid,
            relationship_type="CONTAINS",
        )
