"""Every result object that some Peer gets of one Answer, each verified before it is handed on."""

from collections.abc import Callable, Iterator, Sequence

from node.core.names import SOPInstanceUID
from node.core.result import ObjectRef, ResultKind, SegForm, Wants
from node.dicom.results.answer import Answer, ResultObject
from node.dicom.results.segmentation import encode, file_bytes
from node.dicom.results.verify import verify

Enter = Callable[[str], None]  # names the stage that begins


def make_objects(answer: Answer, wants: Sequence[Wants], enter: Enter) -> Iterator[ResultObject]:
    """What the Peers want, each object once, in the order in which they refer to one another.

    Raises Fatal where an object is not what it should be; it never leaves then.
    """
    for form in dict.fromkeys(one.segmentation for one in wants if one.segmentation is not None):
        yield from _segmentations(answer, form, enter)


def _segmentations(answer: Answer, form: SegForm, enter: Enter) -> Iterator[ResultObject]:
    enter("encode")
    uids = answer.uids(ResultKind.SEGMENTATION, form.name)
    predecessor = next(
        (o.sop_instance_uid for o in answer.predecessors if o.kind is ResultKind.SEGMENTATION), None
    )
    dataset = encode(
        answer.label_map,
        answer.model,
        answer.source,
        uids,
        answer.created_at,
        answer.planes,
        predecessor,
        verdict=answer.verdict,
    )
    content = file_bytes(dataset)
    enter("verify")
    verify(content, answer.label_map, answer.model, answer.source, answer.planes)
    ref = ObjectRef(
        ResultKind.SEGMENTATION,
        form.name,
        str(dataset.SOPClassUID),
        uids.series_instance_uid,
        SOPInstanceUID(uids.sop_instance_uid),
    )
    yield ResultObject(ref, content)
