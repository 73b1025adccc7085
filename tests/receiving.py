"""The receiving process for tests: started as the node starts it, and spoken to in raw PDUs."""

import contextlib
import socket
import ssl
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dsutils import encode
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    MaximumLengthNotification,
)
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from node.dicom.inbox import Inbox
from node.dicom.receiver.command import StoreRequest
from node.dicom.receiver.negotiation import KINDS, negotiated
from node.dicom.receiver.settings import Settings
from node.dicom.receiver.supervisor import Receiver
from tests.peers import eventually

STORE, ECHO = 1, 3  # presentation contexts of `RawPeer`
ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RP, ABORT = 2, 3, 4, 6, 7


@dataclass
class Receiving:
    """A receiver that runs. kept: how often it was told that something is new."""

    inbox: Inbox
    receiver: Receiver
    folder: Path
    port: int
    tls_port: int = 0

    def endings(self) -> list[Path]:
        return sorted((self.folder / "incoming").glob("*.end"))

    def wait_for_endings(self, count: int = 1, seconds: float = 5.0) -> list[Path]:
        return eventually(
            lambda: found if len(found := self.endings()) >= count else None,
            seconds,
            f"{count} .end files",
            every=0.005,
        )

    def resident_mb(self) -> float:
        status = Path(f"/proc/{self.receiver.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1000

    def threads(self) -> int:
        return len(list(Path(f"/proc/{self.receiver.pid}/task").iterdir()))

    def wait_for_threads(self, most: int, seconds: float = 5.0) -> None:
        eventually(lambda: self.threads() <= most, seconds, f"at most {most} threads")


def settings(data_dir: Path, **others: Any) -> Settings:
    """All kinds accepted from anyone, unless told otherwise."""
    kinds = negotiated(dict.fromkeys(KINDS, True))
    plain = Settings(str(data_dir), "SEGNODE", kinds.accepted, kinds.transfer_syntaxes)
    return replace(plain, **others)


@contextmanager
def receiving(data_dir: Path, **others: Any) -> Iterator[Receiving]:
    """A receiver on a free port, and on one for TLS where `tls` names files."""
    inbox = Inbox(data_dir)
    receiver = Receiver(settings(data_dir, **others))
    port = receiver.start("127.0.0.1", 0, 0 if others.get("tls") else None)
    try:
        yield Receiving(inbox, receiver, data_dir, port, receiver.tls_port)
    finally:
        receiver.stop()


@contextmanager
def association(
    port: int, calling: str = "MODALITY", *sop_classes: str, tls: ssl.SSLContext | None = None
) -> Iterator[Association]:
    """pynetdicom as a sender of MR, or of these SOP Classes."""
    ae = AE(ae_title=calling)
    for one in sop_classes or (MRImageStorage,):
        ae.add_requested_context(one, ExplicitVRLittleEndian)
    ae.add_requested_context(Verification)
    secure = (tls, "localhost") if tls is not None else None
    opened = ae.associate("127.0.0.1", port, ae_title="SEGNODE", tls_args=secure)
    try:
        yield opened
    finally:
        if opened.is_established:
            opened.release()


def encoded(instance: Dataset) -> bytes:
    """The data set in explicit VR little endian."""
    raw = encode(instance, is_implicit_vr=False, is_little_endian=True)
    assert raw is not None
    return raw


def store_command(
    sop_instance_uid: str,
    sop_class_uid: str = MRImageStorage,
    message_id: int = 1,
    *,
    has_data_set: bool = True,
) -> bytes:
    """A C-STORE-RQ command set (PS3.7 9.3.1.1)."""
    request = StoreRequest(message_id, sop_class_uid, sop_instance_uid, has_data_set)
    body = b"".join(
        [
            _text(0x0002, request.sop_class_uid),
            _us(0x0100, 1),
            _us(0x0110, message_id),
            _us(0x0700, 0),
            _us(0x0800, 1 if has_data_set else 0x0101),
            _text(0x1000, request.sop_instance_uid),
        ]
    )
    return _element(0, struct.pack("<L", len(body))) + body


def echo_command(message_id: int = 1) -> bytes:
    """A C-ECHO-RQ command set (PS3.7 9.3.5.1)."""
    body = (
        _text(0x0002, Verification)
        + _us(0x0100, 0x30)
        + _us(0x0110, message_id)
        + _us(0x0800, 0x0101)
    )
    return _element(0, struct.pack("<L", len(body))) + body


def pdv(context_id: int, value: bytes, *, command: bool, last: bool) -> bytes:
    return struct.pack(">LBB", len(value) + 2, context_id, command | last << 1) + value


def p_data(*pdvs: bytes) -> bytes:
    body = b"".join(pdvs)
    return struct.pack(">BxL", P_DATA, len(body)) + body


def store_message(instance: Dataset, message_id: int = 1) -> bytes:
    """A whole C-STORE: command in one PDU, data set in another."""
    command = store_command(str(instance.SOPInstanceUID), str(instance.SOPClassUID), message_id)
    return p_data(pdv(STORE, command, command=True, last=True)) + p_data(
        pdv(STORE, encoded(instance), command=False, last=True)
    )


class RawPeer:
    """A TCP connection that says what it is told."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> "RawPeer":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, raw: bytes, step: int | None = None) -> None:
        """All of it, or in pieces of `step` bytes."""
        for offset in range(0, len(raw), step or len(raw) or 1):
            self.socket.sendall(raw[offset : offset + (step or len(raw))])

    def receive(self) -> tuple[int, bytes]:
        """Type and body of the next PDU; (0, b"") at the end."""
        head = self._exactly(6)
        if len(head) < 6:
            return 0, b""
        kind, length = struct.unpack(">BxL", head)
        return kind, self._exactly(length)

    def associate(self, *sop_classes: str, calling: str = "MODALITY") -> None:
        """Contexts 1 (MR, or these: 1, 5, 7, …) and 3 (Verification)."""
        self.send(associate_rq(sop_classes or (MRImageStorage,), calling))
        kind, _ = self.receive()
        assert kind == ASSOCIATE_AC

    def status(self) -> int:
        """Of the next response."""
        kind, body = self.receive()
        assert kind == P_DATA, kind
        at = body.index(struct.pack("<HHL", 0, 0x0900, 2))
        (status,) = struct.unpack_from("<H", body, at + 8)
        return int(status)

    def release(self) -> None:
        self.send(struct.pack(">BxLL", 5, 4, 0))
        assert self.receive()[0] == RELEASE_RP

    def abort(self) -> None:
        self.send(struct.pack(">BxLL", ABORT, 4, 0))

    def reset(self) -> None:
        """Ends the connection without a word: RST."""
        hard = struct.pack("ii", 1, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, hard)
        self.socket.close()

    def _exactly(self, count: int) -> bytes:
        held = b""
        with contextlib.suppress(ConnectionResetError):
            while len(held) < count and (piece := self.socket.recv(count - len(held))):
                held += piece
        return held


def associate_rq(sop_classes: Sequence[str], calling: str = "MODALITY") -> bytes:
    """An A-ASSOCIATE-RQ PDU."""
    contexts = [
        build_context(one, ExplicitVRLittleEndian)
        for one in (sop_classes[0], Verification, *sop_classes[1:])
    ]
    for number, one in enumerate(contexts):
        one.context_id = 2 * number + 1
    primitive: Any = A_ASSOCIATE()
    primitive.application_context_name = "1.2.840.10008.3.1.1.1"
    primitive.calling_ae_title, primitive.called_ae_title = calling, "SEGNODE"
    primitive.presentation_context_definition_list = contexts
    longest, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    longest.maximum_length_received = 16384
    implementation.implementation_class_uid = "1.2.3"
    primitive.user_information = [longest, implementation]
    return A_ASSOCIATE_RQ(primitive).encode()


def _element(element: int, value: bytes) -> bytes:
    return struct.pack("<HHL", 0, element, len(value)) + value


def _us(element: int, value: int) -> bytes:
    return _element(element, struct.pack("<H", value))


def _text(element: int, text: str) -> bytes:
    value = text.encode()
    return _element(element, value + b"\0" * (len(value) % 2))
