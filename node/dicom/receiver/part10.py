"""The header of a Part 10 file, written by hand: the same elements for every Instance."""

import struct
from typing import Final

from node import __version__
from node.core.uids import derive_uid

IMPLEMENTATION_CLASS_UID: Final = derive_uid("segnode", "implementation")
IMPLEMENTATION_VERSION_NAME: Final = f"SEGNODE_{__version__}"[:16]
_PREAMBLE: Final = b"\0" * 128 + b"DICM"


def part_10_header(
    sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, calling_ae_title: str
) -> bytes:
    """Preamble, prefix and File Meta Information, explicit VR little endian (PS3.10 7.1)."""
    meta = b"".join(
        [
            struct.pack("<HH2s2xL2s", 2, 0x0001, b"OB", 2, b"\0\1"),
            _short(0x0002, b"UI", sop_class_uid, b"\0"),
            _short(0x0003, b"UI", sop_instance_uid, b"\0"),
            _short(0x0010, b"UI", transfer_syntax_uid, b"\0"),
            _short(0x0012, b"UI", IMPLEMENTATION_CLASS_UID, b"\0"),
            _short(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME, b" "),
            _short(0x0016, b"AE", calling_ae_title, b" "),
        ]
    )
    return _PREAMBLE + struct.pack("<HH2sHL", 2, 0, b"UL", 4, len(meta)) + meta


def _short(element: int, vr: bytes, text: str, padding: bytes) -> bytes:
    """A text element of group 0002 whose length takes two bytes."""
    value = text.encode("ascii", "replace")
    value += padding if len(value) % 2 else b""
    return struct.pack("<HH2sH", 2, element, vr, len(value)) + value
