"""Every result object that some Peer gets of one Answer, each verified before it is handed on."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from node.core.result import ObjectRef, SegForm, Wants, rejected, rejection_form
from node.dicom.results.answer import Answer, ResultObject
from node.dicom.results.captures.encode import encode_captures
from node.dicom.results.captures.verify import verify_captures
from node.dicom.results.documents.rejection import encode_rejection
from node.dicom.results.documents.verify import verify_rejection
from node.dicom.results.report.encode import encode_report
from node.dicom.results.report.verify import verify_report
from node.dicom.results.segmentation.encode import encode_segmentations
from node.dicom.results.segmentation.verify import verify_segmentations
from node.dicom.results.structure_set.encode import encode_structure_set
from node.dicom.results.structure_set.verify import verify_structure_set

T = TypeVar("T")
Enter = Callable[[str], None]  # names the stage that begins


def make_objects(
    answer: Answer,
    wants: Sequence[Wants],
    enter: Enter,
    rejects: Iterable[Sequence[ObjectRef]] = (),
) -> Iterator[ResultObject]:
    """What the Peers want, each object once, in the order in which they refer to one another.

    rejects: what each Peer that wants a note of it was given before, and this takes the place of.
    Raises Fatal where an object is not what it should be; it never leaves then.
    """
    for form in dict.fromkeys(one.segmentation for one in wants if one.segmentation is not None):
        with_report = any(one.report and one.segmentation == form for one in wants)
        yield from _in_form(answer, form, with_report, enter)
    if any(one.structure_set for one in wants):
        yield _verified(answer, encode_structure_set, verify_structure_set, enter)
    if any(one.capture for one in wants):
        yield from _verified(answer, encode_captures, verify_captures, enter)
    for given in {rejection_form(given): given for given in rejects if rejected(given)}.values():
        yield _rejection(answer, given, enter)


def _verified(
    answer: Answer, encode: Callable[[Answer], T], verify: Callable[[T, Answer], None], enter: Enter
) -> T:
    """What `encode` makes of an Answer, after its gate."""
    enter("encode")
    made = encode(answer)
    enter("verify")
    verify(made, answer)
    return made


def _rejection(answer: Answer, given: Sequence[ObjectRef], enter: Enter) -> ResultObject:
    """The note that a Peer gets that was given these objects of earlier Jobs."""
    enter("encode")
    made = encode_rejection(answer, given)
    enter("verify")
    verify_rejection(made, answer, given)
    return made


def _in_form(
    answer: Answer, form: SegForm, with_report: bool, enter: Enter
) -> Iterator[ResultObject]:
    """The Segmentation in one form, in one or several parts, and the Report that refers to it."""
    enter("encode")
    segmentations = encode_segmentations(answer, form)
    enter("verify")
    verify_segmentations(segmentations, answer, form)
    yield from segmentations
    if with_report:
        enter("encode")
        report = encode_report(answer, segmentations, form.name)
        enter("verify")
        verify_report(report, answer, segmentations)
        yield report
