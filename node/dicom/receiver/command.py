"""Command sets, read and written without a Dataset (PS3.7 6.3, 9.3.1, 10.3.1, 10.3.5)."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from node.dicom.receiver.status import ProtocolError

C_STORE_RQ: Final = 0x0001
N_EVENT_REPORT_RQ: Final = 0x0100
N_ACTION_RQ: Final = 0x0130
_RESPONSE: Final = 0x8000  # the bit by which the field of a response differs
_NO_DATA_SET: Final = 0x0101
_UID_CHARACTERS: Final = frozenset("0123456789.")
_ELEMENT: Final = struct.Struct("<HHL")
_US: Final = struct.Struct("<H")
_COMMENT_LENGTH: Final = 64  # LO, PS3.5 6.2

_SOP_CLASS, _FIELD, _MESSAGE_ID, _RESPONDED = 0x0002, 0x0100, 0x0110, 0x0120
_DATA_SET_TYPE, _STATUS, _COMMENT, _SOP_INSTANCE = 0x0800, 0x0900, 0x0902, 0x1000
_REQUESTED_CLASS, _REQUESTED_INSTANCE, _EVENT_TYPE, _ACTION_TYPE = 0x0003, 0x1001, 0x1002, 0x1008


@dataclass(frozen=True)
class StoreRequest:
    """A C-STORE-RQ as far as a Storage SCP needs it."""

    message_id: int
    sop_class_uid: str
    sop_instance_uid: str
    has_data_set: bool


@dataclass(frozen=True)
class NormalizedRequest:
    """An N-EVENT-REPORT-RQ or N-ACTION-RQ. type_id: of the event or action."""

    command_field: int
    message_id: int
    sop_class_uid: str
    sop_instance_uid: str
    type_id: int
    has_data_set: bool


def store_request(command: bytes) -> StoreRequest | None:
    """A C-STORE-RQ; None for another command. Raises ProtocolError."""
    elements = _elements(command)
    if _number(elements, _FIELD) != C_STORE_RQ:
        return None
    return StoreRequest(
        message_id=_number(elements, _MESSAGE_ID),
        sop_class_uid=_text(elements, _SOP_CLASS),
        sop_instance_uid=_text(elements, _SOP_INSTANCE),
        has_data_set=_number(elements, _DATA_SET_TYPE) != _NO_DATA_SET,
    )


def store_response(request: StoreRequest, status: int, comment: str = "") -> bytes:
    """The C-STORE-RSP. comment: for a person at the sender (PS3.7 C.4.2)."""
    return _response(request, C_STORE_RQ, status, comment)


def normalized_request(command: bytes) -> NormalizedRequest | None:
    """An N-EVENT-REPORT-RQ or N-ACTION-RQ; None for another command. Raises ProtocolError."""
    elements = _elements(command)
    field = _number(elements, _FIELD)
    if field not in (N_EVENT_REPORT_RQ, N_ACTION_RQ):
        return None
    is_action = field == N_ACTION_RQ
    return NormalizedRequest(
        command_field=field,
        message_id=_number(elements, _MESSAGE_ID),
        sop_class_uid=_text(elements, _REQUESTED_CLASS if is_action else _SOP_CLASS),
        sop_instance_uid=_text(elements, _REQUESTED_INSTANCE if is_action else _SOP_INSTANCE),
        type_id=_number(elements, _ACTION_TYPE if is_action else _EVENT_TYPE),
        has_data_set=_number(elements, _DATA_SET_TYPE) != _NO_DATA_SET,
    )


def normalized_response(request: NormalizedRequest, status: int, comment: str = "") -> bytes:
    """The N-EVENT-REPORT-RSP or N-ACTION-RSP; without a reply, which commitment has none of."""
    kind = _ACTION_TYPE if request.command_field == N_ACTION_RQ else _EVENT_TYPE
    type_id = _element(kind, _US.pack(request.type_id))
    return _response(request, request.command_field, status, comment, type_id)


def _response(
    request: StoreRequest | NormalizedRequest,
    field: int,
    status: int,
    comment: str,
    more: bytes = b"",
) -> bytes:
    body = b"".join(
        [
            _uid_element(_SOP_CLASS, request.sop_class_uid),
            _element(_FIELD, _US.pack(field | _RESPONSE)),
            _element(_RESPONDED, _US.pack(request.message_id)),
            _element(_DATA_SET_TYPE, _US.pack(_NO_DATA_SET)),
            _element(_STATUS, _US.pack(status)),
            _element(_COMMENT, _padded(_one_line(comment), b" ")) if comment else b"",
            _uid_element(_SOP_INSTANCE, request.sop_instance_uid),
            more,
        ]
    )
    return _element(0x0000, struct.pack("<L", len(body))) + body


def is_uid(text: str) -> bool:
    """Whether a value may be a UID: digits and dots, at most 64 (PS3.5 9.1)."""
    return 0 < len(text) <= 64 and _UID_CHARACTERS.issuperset(text)


def _elements(command: bytes) -> Mapping[int, bytes]:
    """Values of group 0000 by element; implicit VR little endian always (PS3.7 6.3.1)."""
    found: dict[int, bytes] = {}
    offset = 0
    while offset + _ELEMENT.size <= len(command):
        group, element, length = _ELEMENT.unpack_from(command, offset)
        offset += _ELEMENT.size + length
        if group == 0x0000 and offset <= len(command):
            found[element] = command[offset - length : offset]
    if offset != len(command):
        raise ProtocolError("a command set ends within an element")
    return found


def _number(elements: Mapping[int, bytes], element: int) -> int:
    value = elements.get(element, b"")
    if len(value) != _US.size:
        raise ProtocolError(f"a command set without (0000,{element:04x})")
    return int(_US.unpack(value)[0])


def _text(elements: Mapping[int, bytes], element: int) -> str:
    return elements.get(element, b"").decode("ascii", "replace").strip("\0 ")


def _element(element: int, value: bytes) -> bytes:
    return _ELEMENT.pack(0x0000, element, len(value)) + value


def _uid_element(element: int, uid: str) -> bytes:
    """Left out where the request had none that may be repeated: it is optional."""
    return _element(element, _padded(uid.encode("ascii"), b"\0")) if is_uid(uid) else b""


def _one_line(comment: str) -> bytes:
    printable = "".join(c if " " <= c <= "~" and c != "\\" else "?" for c in comment)
    return printable[:_COMMENT_LENGTH].strip().encode("ascii")


def _padded(value: bytes, padding: bytes) -> bytes:
    return value + padding if len(value) % 2 else value
