"""The identity of an Instance, out of its parsed data set."""

from dataclasses import dataclass
from typing import Final

from pydicom import Dataset
from pydicom.uid import UID

from node.core.names import SeriesInstanceUID, SOPInstanceUID
from node.core.text import clean

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


def identity(parsed: Dataset) -> InstanceHeader:
    """The identity of a parsed Instance. Raises Undecodable."""
    return InstanceHeader(
        sop_class_uid=_uid(parsed, "SOPClassUID"),
        sop_instance_uid=SOPInstanceUID(_uid(parsed, "SOPInstanceUID")),
        study_instance_uid=_uid(parsed, "StudyInstanceUID"),
        series_instance_uid=SeriesInstanceUID(_uid(parsed, "SeriesInstanceUID")),
        modality=_modality(parsed),
    )


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
