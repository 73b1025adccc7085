"""What is negotiated: kinds of SOP Classes by configuration, and the transfer syntaxes we read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pynetdicom import ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts

_ROOT: Final = "1.2.840.10008.5.1.4.1.1."
# By the part of the UID behind 1.2.840.10008.5.1.4.1.1; the first that fits.
_VOLUMES: Final = (
    "2", "2.1", "2.2", "4", "4.1", "4.3", "4.4", "128", "128.1", "130",
)  # fmt: skip
_DOCUMENTS: Final = ("88", "11", "66", "104", "67", "481.3", "90", "91")
_IMAGES: Final = (
    "1", "3", "6", "7", "12", "13", "14", "20", "30", "77", "481.1", "481.2", "481.23",
    "481.24",
)  # fmt: skip
KINDS: Final = ("volumes", "images", "documents", "other")
DEFLATED_REASON: Final = "left out: a data set can grow a thousandfold when it is read"


@dataclass(frozen=True)
class Negotiated:
    """SOP Class UIDs by kind, those that are accepted, and the transfer syntaxes of all."""

    by_kind: Mapping[str, Sequence[str]]
    accepted: Sequence[str]
    transfer_syntaxes: Sequence[str]


def negotiated(accept: Mapping[str, bool]) -> Negotiated:
    """What is accepted where each kind is accepted or not. Unknown SOP Classes never are."""
    by_kind: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for context in AllStoragePresentationContexts:
        by_kind[kind_of(str(context.abstract_syntax))].append(str(context.abstract_syntax))
    accepted = [uid for kind in KINDS if accept[kind] for uid in by_kind[kind]]
    return Negotiated(by_kind, accepted, transfer_syntaxes())


def kind_of(sop_class_uid: str) -> str:
    """volumes: CT, MR and PT; images: what shows pixels; documents: SR, PR, KO, SEG, RTSTRUCT."""
    if not sop_class_uid.startswith(_ROOT):
        return "other"
    tail = sop_class_uid.removeprefix(_ROOT)
    if tail in _VOLUMES:
        return "volumes"
    if _within(tail, _DOCUMENTS):
        return "documents"
    return "images" if _within(tail, _IMAGES) else "other"


def _within(tail: str, branches: Sequence[str]) -> bool:
    return any(tail == one or tail.startswith(one + ".") for one in branches)


def transfer_syntaxes() -> list[str]:
    """Those the installed decoders read, the uncompressed first: the order of our preference."""
    plain = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]
    others = (UID(one) for one in ALL_TRANSFER_SYNTAXES)
    left_out = {*plain, DeflatedExplicitVRLittleEndian}
    packed = [uid for uid in others if uid not in left_out and _is_read(uid)]
    return [str(uid) for uid in (*plain, *packed)]


def _is_read(uid: UID) -> bool:
    try:
        return bool(get_decoder(uid).is_available)
    except NotImplementedError:
        return False
