"""What must be readable of an Instance before it is acknowledged."""

from dataclasses import dataclass
from io import BytesIO
from typing import Final

from pydicom import DataElement, Dataset
from pydicom.dataelem import RawDataElement
from pydicom.filereader import read_dataset
from pydicom.uid import UID, ExplicitVRBigEndian, ImplicitVRLittleEndian

from node.core.names import SeriesInstanceUID, SOPInstanceUID
from node.core.text import clean

_UNDEFINED_LENGTH: Final = 0xFFFFFFFF
_UID_CHARACTERS: Final = frozenset("0123456789.")


class Undecodable(Exception):
    """The bytes are not a data set that can be kept in a Series; the message says why."""


@dataclass(frozen=True)
class InstanceHeader:
    """The identity of one Instance, from its data set."""

    sop_class_uid: str
    sop_instance_uid: SOPInstanceUID
    study_instance_uid: str
    series_instance_uid: SeriesInstanceUID
    modality: str


def read_header(data_set: bytes, transfer_syntax_uid: str) -> InstanceHeader:
    """Parses a whole data set (no file meta) and returns its identity.

    Raises Undecodable where it ends early, makes no sense, or lacks a UID that PS3.4 B.3 needs.
    """
    return identity(_parse(data_set, transfer_syntax_uid))


def identity(parsed: Dataset) -> InstanceHeader:
    """The identity of a parsed Instance. Raises Undecodable."""
    return InstanceHeader(
        sop_class_uid=_uid(parsed, "SOPClassUID"),
        sop_instance_uid=SOPInstanceUID(_uid(parsed, "SOPInstanceUID")),
        study_instance_uid=_uid(parsed, "StudyInstanceUID"),
        series_instance_uid=SeriesInstanceUID(_uid(parsed, "SeriesInstanceUID")),
        modality=_modality(parsed),
    )


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


def _uid(parsed: Dataset, keyword: str) -> str:
    try:
        value = str(parsed.get(keyword) or "")
    except Exception as error:  # the value is decoded only now
        raise Undecodable(f"{keyword} cannot be decoded: {error!r}") from error
    if not value:
        raise Undecodable(f"{keyword} is missing or empty")
    if len(value) > 64 or not _UID_CHARACTERS.issuperset(value):
        raise Undecodable(f"{keyword} is not a UID: {value[:80]!r}")
    return UID(value)


def _modality(parsed: Dataset) -> str:
    try:
        return clean(str(parsed.get("Modality") or "")[:16])
    except Exception:  # it routes, it does not identify: an odd one is no reason to lose the image
        return ""
