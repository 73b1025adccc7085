"""Small pieces of DICOM objects that we write."""

from pydicom import DataElement, Dataset
from pydicom.sr.coding import Code as SRCode

from node.core.anatomy import Code
from node.core.errors import Fatal

_LONG_STRING = 64  # characters of an LO, PS3.5 6.2


def reference(instance: Dataset) -> Dataset:
    """A reference to an Instance by class and UID (PS3.3 10.8)."""
    item = Dataset()
    item.ReferencedSOPClassUID = required(instance, "SOPClassUID")
    item.ReferencedSOPInstanceUID = required(instance, "SOPInstanceUID")
    return item


def stated(instance: Dataset, frame: int | None, group: str, keyword: str) -> DataElement:
    """An element of a plane as the source states it. frame: 1 to n, None in a classic header.

    A frame's own group comes before that of all frames (PS3.3 C.7.6.16). Raises Fatal.
    """
    where = instance
    if frame is not None:
        own = instance.PerFrameFunctionalGroupsSequence[frame - 1]
        items = own.get(group)
        if not items or keyword not in items[0]:
            items = instance.SharedFunctionalGroupsSequence[0][group].value
        where = items[0]
    required(where, keyword)
    return where[keyword]


def sr_code(code: Code) -> SRCode:
    """A code as pydicom and highdicom take it."""
    return SRCode(code.value, code.scheme, long_string(code.meaning))


def code_item(code: Code) -> Dataset:
    """A Code Sequence item, PS3.3 8.8."""
    item = Dataset()
    item.CodeValue = code.value
    item.CodingSchemeDesignator = code.scheme
    item.CodeMeaning = long_string(code.meaning)
    return item


def required(instance: Dataset, keyword: str) -> object:
    """A value without which no Segmentation can be made. Raises Fatal."""
    value = instance.get(keyword)
    if value is None or value == "":
        raise Fatal(f"{name_of(instance)} has no {keyword}: a Segmentation cannot lie on it")
    return value


def name_of(instance: Dataset) -> str:
    """What to call an Instance in a message."""
    return f"Instance {instance.get('SOPInstanceUID') or 'without UID'}"


def long_string(text: str, ending: str = "") -> str:
    """Text as an LO: one line, no backslash, at most 64 characters (PS3.5 6.2).

    Where it is too long, it is cut before the `ending`.
    """
    printable = "".join(c if c.isprintable() else " " for c in text.replace("\\", "/"))
    return printable.strip()[: _LONG_STRING - len(ending)].strip() + ending
