"""What a Peer's answers mean, and in words: stored, later, or never without a person.

One table for C-STORE (PS3.4 B.2.3, PS3.7 C), for what STOW-RS says of an Instance (PS3.18
10.5.3) and for what fails a commitment (PS3.4 J.3.3).
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from node.core.errors import Fatal, Temporary
from node.core.names import SOPInstanceUID
from node.core.text import clean
from node.dicom.scu.instance import Instance
from node.dicom.scu.peer import Peer


class Outcome(StrEnum):
    """What became of an object, and so who acts next."""

    STORED = "stored"  # nobody
    TEMPORARY = "temporary"  # time
    PERMANENT = "permanent"  # a person


@dataclass(frozen=True)
class Stored:
    """What a Peer answered to one object. sop_instance_uid: "" where its file does not say."""

    sop_instance_uid: SOPInstanceUID
    outcome: Outcome
    answer: str


# Stored, with a remark. 0x0111: it has this SOP Instance already (PS3.7 C.5.3), after a crash
# between its answer and us. 0xA770, 0xA774: so dcm4chee answers a rejection note (IHE IOCM) that
# says nothing new; of what it means by its numbers up to 0xA779, none is that resources are short.
_STORED: Final = {
    0x0000: "",
    0x0001: "it does not know some optional elements",
    0x0107: "it remarks on some elements",
    0x0116: "it finds a value out of range",
    0xB000: "some elements were changed",
    0xB006: "some elements were discarded",
    0xB007: "it finds that the data set does not match its SOP Class",
    0x0111: "it had it already",
    0xA770: "it has been told already",
    0xA774: "it has been told already",
}
_FOR_LATER: Final = {0x0110: "failed to process it", 0x0213: "is out of resources"}
_FOR_A_PERSON: Final = {
    0x0117: "finds the SOP Instance UID invalid; see its log, then resend",
    0x0122: "does not support the SOP Class; enable it there, then resend",
    0x0124: "does not authorise us; let our AE title store there, then resend",
    0xC122: "does not take the Transfer Syntax; enable it there, then resend",
    0xA771: "has rejected this object before; restore it there, then resend",
    0xA772: "does not have what this note rejects; store that there first, then resend",
    0xA773: "has what this note rejects under another SOP Class; see its log, then resend",
    0xA775: "does not let us reject by its rules of retention; allow it there, then resend",
    0xA776: "does not let us reject before its time of retention is over; resend after it",
    0xA777: "misses the Patient ID; let it take objects without one, then resend",
    0xA778: "knows the study under another patient; reconcile them there, then resend",
    0xA779: "has other attributes of this patient; reconcile them there, then resend",
}
_WARNINGS: Final = range(0xB000, 0xC000)  # PS3.7 Annex C: done, with a warning
_OUT_OF_RESOURCES: Final = range(0xA700, 0xA800)
_DOES_NOT_MATCH: Final = range(0xA900, 0xAA00)
_CANNOT_UNDERSTAND: Final = range(0xC000, 0xD000)

# PS3.3 C.14.1.1, Failure Reason, and those of PS3.7 C it names.
_REASONS: Final = {
    0x0110: "processing failure",
    0x0112: "it does not have it",
    0x0119: "it has it under another SOP Class",
    0x0122: "it does not commit to this SOP Class",
    0x0131: "the transaction is in use",
    0x0213: "out of resources",
}


def meaning(peer: Peer, status: int, comment: str = "") -> tuple[Outcome, str]:
    """What a Status, or a Failure Reason of STOW-RS, means; in words."""
    words = in_hexadecimal(status, comment)
    if status in _STORED or status in _WARNINGS:
        remark = _STORED.get(status, "with a warning; see its log")
        return Outcome.STORED, ": ".join(filter(None, (f"stored, {words}", remark)))
    if status in _OUT_OF_RESOURCES and status not in _FOR_A_PERSON:
        return Outcome.TEMPORARY, f"{peer} is out of resources: {words}"
    if status in _FOR_LATER:
        return Outcome.TEMPORARY, f"{peer} {_FOR_LATER[status]}: {words}"
    return Outcome.PERMANENT, f"{peer} refused with status {words}: it {_what_to_do(status)}"


def _what_to_do(status: int) -> str:
    if status in _FOR_A_PERSON:
        return _FOR_A_PERSON[status]
    if status in _DOES_NOT_MATCH:
        return "finds that the data set does not match its SOP Class; see its log, then resend"
    if status in _CANNOT_UNDERSTAND:
        return "cannot understand the data set; see its log, then resend"
    return "does not say more; see its log, then resend"


def not_sent(instance: Instance, error: Temporary | Fatal) -> Stored:
    """Of an object that a Peer did not answer to, and why."""
    outcome = Outcome.PERMANENT if isinstance(error, Fatal) else Outcome.TEMPORARY
    return Stored(SOPInstanceUID(instance.sop_instance_uid), outcome, str(error))


def in_hexadecimal(status: int, comment: str = "") -> str:
    """A Status, with what the Peer remarks (0000,0902), cut and cleaned."""
    remark = clean(comment.strip())[:64]
    return f"0x{status:04X}" + (f" ({remark})" if remark else "")


def reason_in_words(reason: int) -> str:
    """Why a Peer does not commit to an object (0008,1197)."""
    return f"{_REASONS.get(reason, 'not committed')}, 0x{reason:04X}"


def require_stored(peer: Peer, status: int, comment: str = "") -> None:
    """Of a question's answer. Raises Temporary or Fatal where it is no success."""
    outcome, words = meaning(peer, status, comment)
    if outcome is Outcome.TEMPORARY:
        raise Temporary(words)
    if outcome is Outcome.PERMANENT:
        raise Fatal(words)
