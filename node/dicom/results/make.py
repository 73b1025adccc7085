"""Every result object that some Peer gets of one Answer, each verified before it is handed on."""

from collections.abc import Callable, Iterator, Sequence

from node.core.result import SegForm, Wants
from node.dicom.results.answer import Answer, ResultObject
from node.dicom.results.capture import encode_captures
from node.dicom.results.rejection import encode_rejection
from node.dicom.results.report import encode_report
from node.dicom.results.segmentation import encode_segmentations
from node.dicom.results.structure_set import encode_structure_set
from node.dicom.results.verify import verify_segmentations
from node.dicom.results.verify_captures import verify_captures
from node.dicom.results.verify_document import verify_rejection
from node.dicom.results.verify_report import verify_report
from node.dicom.results.verify_structure_set import verify_structure_set

Enter = Callable[[str], None]  # names the stage that begins


def make_objects(answer: Answer, wants: Sequence[Wants], enter: Enter) -> Iterator[ResultObject]:
    """What the Peers want, each object once, in the order in which they refer to one another.

    Raises Fatal where an object is not what it should be; it never leaves then.
    """
    for form in dict.fromkeys(one.segmentation for one in wants if one.segmentation is not None):
        with_report = any(one.report and one.segmentation == form for one in wants)
        yield from _in_form(answer, form, with_report, enter)
    if any(one.structure_set for one in wants):
        enter("encode")
        structure_set = encode_structure_set(answer)
        enter("verify")
        verify_structure_set(structure_set, answer)
        yield structure_set
    if any(one.capture for one in wants):
        enter("encode")
        captures = encode_captures(answer)
        enter("verify")
        verify_captures(captures, answer)
        yield from captures
    if answer.predecessors and any(one.rejection_note for one in wants):
        enter("encode")
        rejection = encode_rejection(answer)
        enter("verify")
        verify_rejection(rejection, answer)
        yield rejection


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
