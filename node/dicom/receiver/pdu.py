"""PDUs out of a byte stream: framed, bounded, and cut into their PDVs (PS3.8 9.3)."""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from node.dicom.receiver.status import ProtocolError

ASSOCIATE_RQ: Final = 0x01
P_DATA_TF: Final = 0x04
_HEADER: Final = struct.Struct(">BxL")
_PDV_HEADER: Final = struct.Struct(">LBB")
_PDUS_HELD: Final = 4  # of the longest: one read may bring several
_FIRST_BYTES: Final = 16 * 1024  # until data come: many connections never send any
_TYPES: Final = frozenset(range(1, 8))
ASSOCIATE_LIMIT: Final = 1 << 20  # 128 contexts with all their transfer syntaxes take a tenth
OTHER_LIMIT: Final = 4096  # A-RELEASE and A-ABORT have four bytes


@dataclass(frozen=True)
class PDU:
    """One whole PDU. raw: with its header; only valid until the next one is asked for."""

    type: int
    raw: memoryview


@dataclass(frozen=True)
class PDV:
    """A Presentation Data Value item: a fragment of a message (PS3.8 9.3.5.1, Annex E)."""

    context_id: int
    is_command: bool
    is_last: bool
    value: memoryview


class PDUStream:
    """What has come from a socket and is not used yet. max_length: of a P-DATA-TF, as announced."""

    def __init__(self, max_length: int) -> None:
        self._max_length = max_length
        self._buffer = bytearray(_FIRST_BYTES)
        self._is_for_data = False
        self._begin = self._end = 0

    def receive(self, read: Callable[[memoryview], int]) -> int:
        """Reads what has come, as much as there is room for. Returns 0 at the end of the stream.

        Raises what `read` raises, e.g. BlockingIOError where nothing has come.
        """
        if self._end == len(self._buffer):
            self._make_room(len(self._buffer))
        with memoryview(self._buffer) as view, view[self._end :] as room:
            count = read(room)
        self._end += count
        return count

    def next(self) -> PDU | None:
        """The next whole PDU; None until more has come. Raises ProtocolError before it is read."""
        held = self._end - self._begin
        if held == 0:
            self._begin = self._end = 0
        if held < _HEADER.size:
            return None
        kind, length = _HEADER.unpack_from(self._buffer, self._begin)
        self._require_bounded(kind, length)
        if kind == P_DATA_TF and not self._is_for_data:
            self._is_for_data = True
            self._make_room(_PDUS_HELD * (self._max_length + _HEADER.size))
        size = _HEADER.size + length
        if held < size:
            if self._begin + size > len(self._buffer):
                self._make_room(size)
            return None
        begin, self._begin = self._begin, self._begin + size
        return PDU(kind, memoryview(self._buffer)[begin : begin + size])

    def close(self) -> None:
        """Gives the memory back."""
        self._buffer = bytearray()

    def _require_bounded(self, kind: int, length: int) -> None:
        if kind not in _TYPES:
            raise ProtocolError(f"PDU of unknown type {kind:#04x}")
        limit = {P_DATA_TF: self._max_length, ASSOCIATE_RQ: ASSOCIATE_LIMIT}.get(kind, OTHER_LIMIT)
        if length > limit:
            raise ProtocolError(f"PDU of type {kind:#04x} claims {length} bytes; {limit} may come")

    def _make_room(self, size: int) -> None:
        """Moves what is held to the beginning of a buffer that takes a PDU of this size."""
        held = bytes(memoryview(self._buffer)[self._begin : self._end])
        if size > len(self._buffer):
            self._buffer = bytearray(size)
        self._buffer[: len(held)] = held
        self._begin, self._end = 0, len(held)


def pdvs(pdu: PDU) -> Iterator[PDV]:
    """The PDVs of a P-DATA-TF. Raises ProtocolError where they do not fill it exactly."""
    raw, offset = pdu.raw, _HEADER.size
    while offset < len(raw):
        if offset + _PDV_HEADER.size > len(raw):
            raise ProtocolError("P-DATA-TF ends within the header of a PDV")
        length, context_id, control = _PDV_HEADER.unpack_from(raw, offset)
        end = offset + 4 + length
        if length < 2 or end > len(raw):
            raise ProtocolError(f"a PDV claims {length} bytes; its PDU has {len(raw) - offset - 4}")
        yield PDV(context_id, bool(control & 1), bool(control & 2), raw[offset + 6 : end])
        offset = end


def p_data(context_id: int, command: bytes, max_length: int) -> bytes:
    """A command as P-DATA-TF PDUs, none longer than the peer takes (0: any length)."""
    size = max(max_length - 6, 2) if max_length else len(command)
    out = bytearray()
    for offset in range(0, len(command), size):
        value = command[offset : offset + size]
        control = 3 if offset + size >= len(command) else 1
        out += _HEADER.pack(P_DATA_TF, len(value) + 6)
        out += _PDV_HEADER.pack(len(value) + 2, context_id, control) + value
    return bytes(out)
