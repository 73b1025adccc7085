"""Why a file would be refused if it was sent: what the receiver asks, of a file that lies here."""

import os
from collections.abc import Callable
from pathlib import Path

from pydicom import dcmread
from pydicom.uid import ImplicitVRLittleEndian

from node.core.text import clean
from node.dicom.inbox import data_set_offset
from node.dicom.receiver import data_set
from node.dicom.receiver.command import is_uid
from node.dicom.receiver.data_set import NotWhole
from node.dicom.receiver.negotiation import Negotiated, kind_of
from node.dicom.uid_names import uid_name

Rehearsal = Callable[[Path], str | None]


def rehearsal(kinds: Negotiated, max_instance_bytes: int) -> Rehearsal:
    """Of a file the reason why the receiver would refuse it, None where it would take it."""

    def refusal(path: Path) -> str | None:
        try:
            syntax = _transfer_syntax(path)
            if syntax not in kinds.transfer_syntaxes:
                name = clean(uid_name(syntax)[:64])
                return f"transfer syntax {name} is not negotiated: the sender must convert it"
            found, size = _identity(path, syntax)
        except NotWhole as error:
            return f"0xC000: {error}"
        except Exception as error:  # hostile bytes make the parser raise almost anything
            return f"it cannot be read: {type(error).__name__}"
        if size > max_instance_bytes:
            return f"0xA700: larger than dicom.max_instance_mb = {max_instance_bytes // 1_000_000}"
        return _fault(found, kinds)

    return refusal


def _transfer_syntax(path: Path) -> str:
    meta = dcmread(path, stop_before_pixels=True, specific_tags=[]).file_meta
    return str(meta.get("TransferSyntaxUID") or ImplicitVRLittleEndian)


def _identity(path: Path, syntax: str) -> tuple[data_set.Identity, int]:
    with path.open("rb") as file:
        begin = data_set_offset(file.read(144))
        end = os.fstat(file.fileno()).st_size
        return data_set.identity(file.fileno(), begin, end, syntax), end - begin


def _fault(found: data_set.Identity, kinds: Negotiated) -> str | None:
    stated = {
        "SOPClassUID": found.sop_class_uid,
        "SOPInstanceUID": found.sop_instance_uid,
        "StudyInstanceUID": found.study_instance_uid,
        "SeriesInstanceUID": found.series_instance_uid,
    }
    for keyword, value in stated.items():
        if not is_uid(value):
            fault = f"is not a UID: {value[:80]!r}" if value else "is missing or empty"
            return f"0xC000: {keyword} {fault}"
    if found.sop_class_uid not in kinds.accepted:
        return _not_negotiated(found.sop_class_uid, kinds)
    return None


def _not_negotiated(sop_class_uid: str, kinds: Negotiated) -> str:
    kind = kind_of(sop_class_uid)
    name = uid_name(sop_class_uid)
    if sop_class_uid in kinds.by_kind[kind]:
        return f"SOP Class {name} is not negotiated: dicom.accept.{kind} = false"
    return f"SOP Class {name} is not negotiated: it is no Storage SOP Class that the Standard knows"
