"""A document's content read back, item by item, with pydicom alone."""

from pydicom import Dataset

CodedName = tuple[str, str]


def coded(item: Dataset) -> CodedName:
    """A code as value and scheme, whichever of the three attributes holds the value (PS3.3 8.8)."""
    value = item.get("CodeValue") or item.get("LongCodeValue") or item.get("URNCodeValue")
    return str(value), str(item.CodingSchemeDesignator)


def every(parent: Dataset, name: CodedName) -> list[Dataset]:
    """The children of a content item that have this concept name."""
    items = parent.get("ContentSequence") or []
    return [item for item in items if coded(item.ConceptNameCodeSequence[0]) == name]


def only(parent: Dataset, name: CodedName) -> Dataset:
    """The one child of this name. Raises ValueError where there is none, or more than one."""
    (item,) = every(parent, name)
    return item


def letters(text: str) -> str:
    """What an LO cannot hold, and an encoder replaces, does not count."""
    return "".join(character for character in text if character.isalnum())
