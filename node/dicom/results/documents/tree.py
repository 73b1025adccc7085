"""A document's content read back, item by item, with pydicom alone."""

from collections.abc import Iterator, Sequence

from pydicom import Dataset

from node.dicom.results.gate import CodedName, Named, coded

Referred = tuple[str, str]  # SOP Class and SOP Instance UID


def every(parent: Dataset, name: CodedName) -> list[Dataset]:
    """The children of a content item that have this concept name."""
    items = parent.get("ContentSequence") or []
    return [item for item in items if coded(item.ConceptNameCodeSequence[0]) == name]


def only(parent: Dataset, name: CodedName) -> Dataset:
    """The one child of this name. Raises ValueError where there is none, or more than one."""
    (item,) = every(parent, name)
    return item


def hierarchy(studies: Sequence[Dataset]) -> list[Named]:
    """All Instances of a Hierarchical SOP Instance Reference (PS3.3 10.2), sorted."""
    return sorted(
        (
            str(study.StudyInstanceUID),
            str(series.SeriesInstanceUID),
            str(item.ReferencedSOPClassUID),
            str(item.ReferencedSOPInstanceUID),
        )
        for study in studies
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    )


def referred(parent: Dataset) -> Iterator[Referred]:
    """All objects that the content refers to, item by item."""
    for item in parent.get("ContentSequence") or []:
        for reference in item.get("ReferencedSOPSequence") or []:
            yield str(reference.ReferencedSOPClassUID), str(reference.ReferencedSOPInstanceUID)
        yield from referred(item)
