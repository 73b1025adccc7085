"""What an image refers to: the images it was made of, and the results it takes the place of."""

from collections.abc import Sequence
from typing import Final

from pydicom import Dataset

from node.core.anatomy import Code
from node.core.result import ObjectRef, ResultKind
from node.dicom.elements import code_item, reference, required

SOURCE_IMAGE: Final = Code(  # PS3.16 CID 7202
    "121322", "DCM", "Source image for image processing operation"
)
_TEMPORAL_PREDECESSOR = Code("121348", "DCM", "Temporal Predecessor")  # PS3.16 CID 7201


def refer_to_source(
    dataset: Dataset, instances: Sequence[Dataset], further: Sequence[Sequence[Dataset]] = ()
) -> None:
    """Source Image Sequence, and Common Instance Reference (PS3.3 C.12.2), which OHIF needs.

    further: Instances of other channels by Series. They come after the Series that the result lies
    on, which viewers take from the first item, and with a purpose (CID 7202).
    """
    series = [_referenced_series(instances)]
    elsewhere: dict[str, list[Dataset]] = {}
    for others in further:
        study = str(required(others[0], "StudyInstanceUID"))
        same = study == dataset.StudyInstanceUID
        (series if same else elsewhere.setdefault(study, [])).append(_referenced_series(others))
    dataset.ReferencedSeriesSequence = series
    if elsewhere:
        studies = [_other_study(uid, items) for uid, items in elsewhere.items()]
        dataset.StudiesContainingOtherReferencedInstancesSequence = studies
    dataset.SourceImageSequence = [
        *(reference(instance) for instance in instances),
        *(_processed(instance) for others in further for instance in others),
    ]


def _referenced_series(instances: Sequence[Dataset]) -> Dataset:
    series = Dataset()
    series.SeriesInstanceUID = required(instances[0], "SeriesInstanceUID")
    series.ReferencedInstanceSequence = [reference(instance) for instance in instances]
    return series


def _other_study(uid: str, series: list[Dataset]) -> Dataset:
    study = Dataset()
    study.StudyInstanceUID = uid
    study.ReferencedSeriesSequence = series
    return study


def _processed(instance: Dataset) -> Dataset:
    """An image that the network saw, and on which the result does not lie."""
    item = reference(instance)
    item.PurposeOfReferenceCodeSequence = [code_item(SOURCE_IMAGE)]
    return item


def refer_to_predecessors(dataset: Dataset, predecessors: Sequence[ObjectRef]) -> None:
    """Referenced Image Sequence (PS3.3 C.12.4) with the purpose Temporal Predecessor (CID 7201).

    Of all objects that an earlier Job made, these are the images.
    """
    earlier = [one for one in predecessors if one.kind is ResultKind.SEGMENTATION]
    if earlier:
        dataset.ReferencedImageSequence = [_predecessor(one) for one in earlier]


def _predecessor(ref: ObjectRef) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = ref.sop_class_uid
    item.ReferencedSOPInstanceUID = ref.sop_instance_uid
    item.PurposeOfReferenceCodeSequence = [code_item(_TEMPORAL_PREDECESSOR)]
    return item
