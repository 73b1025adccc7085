"""A document's content read back, item by item, with pydicom alone."""

from pydicom import Dataset

from node.dicom.results.gate import CodedName, coded


def every(parent: Dataset, name: CodedName) -> list[Dataset]:
    """The children of a content item that have this concept name."""
    items = parent.get("ContentSequence") or []
    return [item for item in items if coded(item.ConceptNameCodeSequence[0]) == name]


def only(parent: Dataset, name: CodedName) -> Dataset:
    """The one child of this name. Raises ValueError where there is none, or more than one."""
    (item,) = every(parent, name)
    return item
