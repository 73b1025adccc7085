"""The judge of our walk over data sets: pydicom's parser, and whether each value is whole."""

from io import BytesIO
from typing import Final

from pydicom import DataElement, Dataset
from pydicom.dataelem import RawDataElement
from pydicom.filereader import read_dataset
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

from node.dicom.header import InstanceHeader, Undecodable, identity

_UNDEFINED_LENGTH: Final = 0xFFFFFFFF


def read_header(data_set: bytes, transfer_syntax_uid: str) -> InstanceHeader:
    """Parses a whole data set (no file meta) and returns its identity.

    Raises Undecodable where it ends early, makes no sense, or lacks a UID that PS3.4 B.3 needs.
    """
    return identity(_parse(data_set, transfer_syntax_uid))


def _parse(data_set: bytes, transfer_syntax_uid: str) -> Dataset:
    try:
        parsed = read_dataset(
            BytesIO(data_set),
            is_implicit_VR=transfer_syntax_uid == ImplicitVRLittleEndian,
            is_little_endian=transfer_syntax_uid != ExplicitVRBigEndian,
        )
        for tag in parsed.keys():  # noqa: SIM118  # iterating over items would decode them
            _require_whole(parsed.get_item(tag))
        return parsed
    except Undecodable:
        raise
    except Exception as error:  # hostile bytes make the parser raise almost anything
        raise Undecodable(f"the data set cannot be parsed: {error!r}") from error


def _require_whole(element: DataElement | RawDataElement) -> None:
    """pydicom takes a value that ends with the bytes for a shorter one."""
    if isinstance(element, RawDataElement) and element.length != _UNDEFINED_LENGTH:
        held = len(element.value or b"")
        if held < element.length:
            raise Undecodable(f"{element.tag} ends after {held} of {element.length} bytes")
