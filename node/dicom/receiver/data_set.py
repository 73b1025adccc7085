"""Whether bytes on disk are a whole data set, and whose: a walk over element headers only.

Values are skipped, Pixel Data is never read, and depth, steps (see pace) and memory are bounded,
whatever the bytes say (PS3.5 7). Encodings that pydicom reads although the Standard forbids them
(implicit VR under an explicit transfer syntax, unknown VRs) are walked as pydicom does.
"""

import os
import struct
from dataclasses import dataclass
from typing import Final

from node.dicom.receiver.pace import Pace, TooLong

IMPLICIT_LITTLE: Final = "1.2.840.10008.1.2"
EXPLICIT_BIG: Final = "1.2.840.10008.1.2.2"
_UNDEFINED: Final = 0xFFFFFFFF
_WINDOW: Final = 64 * 1024
_MOST_DEPTH: Final = 64

_ITEM: Final = 0xFFFEE000
_ITEM_END: Final = 0xFFFEE00D
_SEQUENCE_END: Final = 0xFFFEE0DD
_PIXEL_DATA: Final = frozenset([0x7FE00008, 0x7FE00009, 0x7FE00010])
_CHARACTER_SET: Final = 0x00080005
SOP_CLASS: Final = 0x00080016
SOP_INSTANCE: Final = 0x00080018
STUDY: Final = 0x0020000D
SERIES: Final = 0x0020000E
NAMES: Final = {
    SOP_CLASS: "SOPClassUID",
    SOP_INSTANCE: "SOPInstanceUID",
    STUDY: "StudyInstanceUID",
    SERIES: "SeriesInstanceUID",
}
_LONGEST_UID: Final = 256  # of what is read to be judged

_SHORT_VRS: Final = frozenset(
    [
        b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN",
        b"SH", b"SL", b"SS", b"ST", b"TM", b"UI", b"UL", b"US",
    ]
)  # fmt: skip
_LONG_VRS: Final = frozenset(
    [b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"]
)


class NotWhole(Exception):
    """The bytes are not a whole data set; the message says where and why."""


@dataclass(frozen=True)
class Identity:
    """Whose data set it is; "" where it does not say."""

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str


def identity(descriptor: int, begin: int, end: int, transfer_syntax_uid: str) -> Identity:
    """Walks the data set in a file from `begin` to `end`. Raises NotWhole, OSError."""
    explicit = transfer_syntax_uid != IMPLICIT_LITTLE
    with Pace() as pace:
        walk = _Walk(descriptor, end, pace, big=transfer_syntax_uid == EXPLICIT_BIG)
        try:
            walk.top(begin, walk.looks_explicit(begin, explicit))
        except TooLong as error:
            raise NotWhole(str(error)) from error
    texts = [_text(walk.found.get(tag, b"")) for tag in NAMES]
    return Identity(*texts)


def _text(value: bytes) -> str:
    return value.decode("ascii", "replace").rstrip("\0 ")


class _Walk:
    """One walk. Offsets are of the file; `found`: the UIDs at the top, before Pixel Data.

    A piece of the file is held: small reads of it are what the walk does most.
    """

    def __init__(self, descriptor: int, end: int, pace: Pace, *, big: bool) -> None:
        order = ">" if big else "<"
        self._descriptor, self._end, self._pace = descriptor, end, pace
        self._held, self._held_from = b"", 0
        self._tag_and_length = struct.Struct(f"{order}HHL")
        self._tag_vr_length = struct.Struct(f"{order}HH2sH")
        self._length = struct.Struct(f"{order}L")
        self._pixels_begun = False
        self.found: dict[int, bytes] = {}

    def _read(self, offset: int, count: int) -> bytes:
        """At most count bytes, fewer at the end."""
        at = self._reach(offset, count)
        return self._held[at : at + count]

    def _reach(self, offset: int, count: int) -> int:
        """Where in what is held these bytes are, as far as there are so many."""
        at = offset - self._held_from
        if at < 0 or at + count > len(self._held):
            size = min(max(_WINDOW, count), self._end - offset)
            self._held = os.pread(self._descriptor, max(size, 0), offset)
            self._held_from, at = offset, 0
        return at

    def looks_explicit(self, offset: int, expected: bool) -> bool:
        """What the first element is: the letters of a VR, or the bytes of a length."""
        head = self._read(offset, 6)
        if len(head) < 6:
            return expected
        return 0x40 < head[4] < 0x5B and 0x40 < head[5] < 0x5B

    def top(self, offset: int, explicit: bool) -> None:
        """All elements up to the end of the file."""
        end = self._elements(offset, self._end, explicit, depth=0)
        if end != self._end:
            raise NotWhole(f"{self._end - end} bytes after an item delimiter at byte {end}")

    def _elements(self, offset: int, end: int, explicit: bool, depth: int) -> int:
        """Elements up to `end`, or to an item delimiter; returns the offset behind them."""
        while offset < end:
            tag, vr, length, value = self._header(offset, end, explicit)
            if tag == _ITEM_END:
                return value
            if length == _UNDEFINED:
                offset = self._undefined(tag, vr, value, end, explicit, depth)
                continue
            if value + length > end:
                raise NotWhole(f"{_name(tag)} ends after {end - value} of {length} bytes")
            if depth == 0:
                self._note(tag, vr, value, length)
            offset = value + length  # also of a sequence: what is in it cannot reach beyond it
        return offset

    def _note(self, tag: int, vr: bytes | None, value: int, length: int) -> None:
        """Refuses at the top what two readers could read in two ways."""
        if tag in NAMES:
            if self._pixels_begun:
                raise NotWhole(f"{NAMES[tag]} stands behind Pixel Data")
            if tag in self.found:
                raise NotWhole(f"{NAMES[tag]} stands there twice")
            if vr not in (b"UI", b"UN", None):
                raise NotWhole(f"{NAMES[tag]} has the VR {vr!r}")
            self.found[tag] = self._read(value, min(length, _LONGEST_UID))
        elif tag == _CHARACTER_SET:
            names = self._read(value, min(length, _LONGEST_UID)).rstrip(b"\0 ")
            if vr not in (b"CS", b"UN", None) or b"\0" in names:
                raise NotWhole("SpecificCharacterSet is not a text")
        elif tag in _PIXEL_DATA:
            self._pixels_begun = True

    def _header(self, offset: int, end: int, explicit: bool) -> tuple[int, bytes | None, int, int]:
        """Tag, VR (None if implicit), length, and where the value begins (PS3.5 7.1)."""
        pace = self._pace
        pace.left -= 1
        if pace.left < 0:
            pace.rest(offset)
        at = offset - self._held_from
        if at < 0 or at + 12 > len(self._held):
            at = self._reach(offset, 12)
        held = self._held
        if offset + 8 > end or at + 8 > len(held):
            raise NotWhole(f"it ends within the header of an element at byte {offset}")
        if explicit:
            group, element, vr, length = self._tag_vr_length.unpack_from(held, at)
            if vr in _SHORT_VRS:
                return group << 16 | element, vr, length, offset + 8
            if vr in _LONG_VRS:
                if offset + 12 > end or at + 12 > len(held):
                    raise NotWhole(f"it ends within the header of an element at byte {offset}")
                (length,) = self._length.unpack_from(held, at + 8)
                return group << 16 | element, vr, length, offset + 12
            if b"AA" <= vr <= b"ZZ":  # not a VR; as pydicom reads it
                if not (vr.isalpha() and vr.isupper()):
                    raise NotWhole(f"an element at byte {offset} has the VR {vr!r}")
                return group << 16 | element, vr, length, offset + 8
        group, element, length = self._tag_and_length.unpack_from(held, at)
        return group << 16 | element, None, length, offset + 8

    def _undefined(
        self, tag: int, vr: bytes | None, value: int, end: int, explicit: bool, depth: int
    ) -> int:
        """An element of undefined length: Pixel Data in fragments, or a sequence."""
        if depth == 0:
            self._note(tag, vr, value, 0)
        if tag in _PIXEL_DATA or vr in (b"OB", b"OW"):
            return self._fragments(value, end)
        if vr == b"UN":  # PS3.5 6.2.2 note 4: implicit within
            return self._items(value, end, False, depth + 1, delimited=True)
        return self._items(value, end, explicit, depth + 1, delimited=True)

    def _items(
        self, offset: int, end: int, explicit: bool, depth: int, *, delimited: bool = False
    ) -> int:
        """The items of a sequence up to `end`, or to its delimiter (PS3.5 7.5)."""
        if depth > _MOST_DEPTH:
            raise NotWhole(f"sequences lie more than {_MOST_DEPTH} deep at byte {offset}")
        while offset < end:
            tag, length, value = self._item_header(offset, end)
            if tag == _SEQUENCE_END:
                return value
            if tag != _ITEM:
                raise NotWhole(f"{_name(tag)} at byte {offset}, where an item should begin")
            if length:
                value = self._item(value, length, end, explicit, depth)
            offset = value
        if delimited:
            raise NotWhole("a sequence ends without its delimiter")
        return offset

    def _item(self, value: int, length: int, end: int, explicit: bool, depth: int) -> int:
        within = explicit and self.looks_explicit(value, True)
        if length == _UNDEFINED:
            behind = self._elements(value, end, within, depth)
            if behind >= end and not self._ends_with_delimiter(behind):
                raise NotWhole("an item ends without its delimiter")
            return behind
        if value + length > end:
            raise NotWhole(f"an item ends after {end - value} of {length} bytes")
        self._elements(value, value + length, within, depth)
        return value + length

    def _ends_with_delimiter(self, behind: int) -> bool:
        tag, _, _ = self._item_header(behind - 8, behind)
        return tag == _ITEM_END

    def _fragments(self, offset: int, end: int) -> int:
        """The items of encapsulated Pixel Data and their delimiter (PS3.5 A.4)."""
        while offset < end:
            tag, length, value = self._item_header(offset, end)
            if tag == _SEQUENCE_END:
                return value
            if tag != _ITEM or length == _UNDEFINED:
                raise NotWhole(f"{_name(tag)} at byte {offset}, where a fragment should begin")
            if value + length > end:
                raise NotWhole(f"a fragment ends after {end - value} of {length} bytes")
            offset = value + length
        raise NotWhole("encapsulated pixel data end without their delimiter")

    def _item_header(self, offset: int, end: int) -> tuple[int, int, int]:
        pace = self._pace
        pace.left -= 1
        if pace.left < 0:
            pace.rest(offset)
        at = offset - self._held_from
        if at < 0 or at + 8 > len(self._held):
            at = self._reach(offset, 8)
        if offset + 8 > end or at + 8 > len(self._held):
            raise NotWhole(f"it ends within the header of an item at byte {offset}")
        group, element, length = self._tag_and_length.unpack_from(self._held, at)
        return group << 16 | element, length, offset + 8


def _name(tag: int) -> str:
    return f"({tag >> 16:04x},{tag & 0xFFFF:04x})"
