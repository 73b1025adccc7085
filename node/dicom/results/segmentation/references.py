"""What a Segmentation refers to: the images that the network saw, and what came before it.

A part of the gate (see verify.py), as promises.py is.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Final

from pydicom import Dataset

from node.core.result import ResultKind
from node.dicom.results.answer import Answer
from node.dicom.results.gate import Named, named
from node.dicom.results.segmentation.decoded import wrong

_TEMPORAL_PREDECESSOR: Final = "121348"
_PROCESSED: Final = "121322"  # Source image for image processing operation


def require_references(header: Dataset, answer: Answer, used: Collection[str]) -> None:
    """Each Instance that was used once, in its Series and Study, and nothing else. Raises Fatal.

    used: SOP Instance UIDs of the source that the labels lie on; of other channels all are.
    """
    others = [one for series in answer.others for one in series.instances]
    lain_on = {named(one) for one in answer.source.instances if one.SOPInstanceUID in used}
    expected = lain_on | {named(one) for one in others}
    found = sorted(_common_references(header))
    for _, _, _, uid in sorted(set(found) - expected):
        raise wrong(f"{uid} is not in the source Series, or not as it is referred to")
    if found != sorted(expected):
        raise wrong(
            f"it refers to {len(found)} Instances, not to the {len(expected)} it is made of"
        )
    images = sorted(_images(header.SourceImageSequence))
    sources = [(*one[2:], "" if one in lain_on else _PROCESSED) for one in expected]
    if images != sorted(sources):
        raise wrong("the Source Image Sequence does not name all that it is made of, or more")
    _require_predecessors(header, answer)


def _common_references(header: Dataset) -> Iterator[Named]:
    """Common Instance Reference, PS3.3 C.12.2: of the same Study, then of others."""
    others = header.get("StudiesContainingOtherReferencedInstancesSequence") or []
    for study in (header, *others):
        for series in study.ReferencedSeriesSequence:
            for item in series.ReferencedInstanceSequence:
                yield (
                    str(study.StudyInstanceUID),
                    str(series.SeriesInstanceUID),
                    str(item.ReferencedSOPClassUID),
                    str(item.ReferencedSOPInstanceUID),
                )


def _images(items: Sequence[Dataset]) -> Iterator[tuple[str, str, str]]:
    """Class, UID and purpose, "" without one."""
    for item in items:
        purposes = item.get("PurposeOfReferenceCodeSequence") or []
        purpose = str(purposes[0].CodeValue) if purposes else ""
        yield str(item.ReferencedSOPClassUID), str(item.ReferencedSOPInstanceUID), purpose


def _require_predecessors(header: Dataset, answer: Answer) -> None:
    """It takes the place of the Segmentations of the earlier Job, and of nothing else."""
    expected = [
        (one.sop_class_uid, one.sop_instance_uid, _TEMPORAL_PREDECESSOR)
        for one in answer.predecessors
        if one.kind is ResultKind.SEGMENTATION
    ]
    found = [
        (
            str(item.ReferencedSOPClassUID),
            str(item.ReferencedSOPInstanceUID),
            str(item.PurposeOfReferenceCodeSequence[0].CodeValue),
        )
        for item in header.get("ReferencedImageSequence", ())
    ]
    if found != expected:
        raise wrong(f"it names {len(found)} predecessors, and not the {len(expected)} it has")
