"""The Storage and Verification SCU, and what a Peer's answers mean (PS3.4 B.2.3, PS3.7 C)."""

import socket
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, MediaStorageDirectoryStorage
from pynetdicom import AE, build_context, evt
from pynetdicom.association import Association
from pynetdicom.events import Event
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # built at import

from node.core.errors import Fatal, Temporary
from node.core.names import AETitle

# Stored, with a remark: coercion, elements discarded, data set does not match SOP Class.
# 0x0111: it has this SOP Instance already (PS3.7 C.5.3), after a crash between its answer and us.
STORED: Final = frozenset({0x0000, 0xB000, 0xB006, 0xB007, 0x0111})
_PROCESSING_FAILURE: Final = 0x0110
_PERMANENT_REJECTION: Final = 1  # PS3.8 9.3.4, Result


@dataclass(frozen=True)
class Peer:
    """A named remote AE. timeout_seconds bounds the connection and each answer."""

    name: str
    ae_title: AETitle
    host: str
    port: int
    timeout_seconds: float = 30.0

    def __str__(self) -> str:
        return f"{self.name} ({self.ae_title} at {self.host}:{self.port})"


def dicom_files(folder: Path) -> list[Path]:
    """The DICOM files in a folder and below, media directories left out; other files too."""
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and _is_instance(path)]


def _is_instance(path: Path) -> bool:
    try:
        meta = dcmread(path, stop_before_pixels=True, specific_tags=["SOPInstanceUID"]).file_meta
    except (InvalidDicomError, OSError):
        return False
    return bool(meta.get("MediaStorageSOPClassUID") != MediaStorageDirectoryStorage)


def echo(peer: Peer, calling_ae_title: AETitle) -> None:
    """C-ECHO. Raises Temporary or Fatal, saying what is wrong."""
    with associated(peer, calling_ae_title, [(Verification, None)]) as association:
        _require_answer(peer, association.send_c_echo())


def send(paths: Sequence[Path], peer: Peer, calling_ae_title: AETitle) -> str:
    """C-STOREs files over one Association, as they are encoded; returns the answer in words.

    Raises Temporary where it may work later and Fatal where a person must act. The first file
    that is not stored ends it; sending again is harmless (same SOP Instance UIDs).
    """
    files = [dcmread(path) for path in paths]
    contexts = _needed_contexts(files)
    answers = []
    with associated(peer, calling_ae_title, contexts) as association:
        for file in files:
            _require_accepted(peer, association, file)
            answers.append(_store(peer, association, file))
    return ", ".join(sorted(set(answers)))


def _needed_contexts(files: Sequence[Dataset]) -> Sequence[tuple[UID, UID | None]]:
    """Only what will be sent: an Association has 128 presentation contexts (PS3.8 9.3.2.2)."""
    pairs = {(UID(file.SOPClassUID), UID(file.file_meta.TransferSyntaxUID)) for file in files}
    if len(pairs) > 128:
        raise Fatal(f"{len(pairs)} kinds of objects do not fit in one Association; send fewer")
    return sorted(pairs)


@contextmanager
def associated(
    peer: Peer, calling_ae_title: AETitle, contexts: Iterable[tuple[UID, UID | None]]
) -> Iterator[Association]:
    ae = AE(ae_title=calling_ae_title)
    ae.connection_timeout = peer.timeout_seconds
    ae.acse_timeout = peer.timeout_seconds
    ae.dimse_timeout = peer.timeout_seconds
    ae.network_timeout = peer.timeout_seconds
    reached = threading.Event()

    def on_connection(event: Event) -> None:
        reached.set()
        send_without_delay(event)

    handlers: list[Any] = [(evt.EVT_CONN_OPEN, on_connection)]
    try:
        association = ae.associate(
            peer.host,
            peer.port,
            [build_context(*context) for context in contexts],
            ae_title=peer.ae_title,
            evt_handlers=handlers,
        )
    except OSError as error:  # a name that cannot be resolved, for one
        raise Temporary(f"{peer} cannot be reached: {error}") from error
    if not association.is_established:
        raise _not_associated(peer, association, reached.is_set())
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


def send_without_delay(event: Event) -> None:
    """Sends each PDU at once: Nagle's wait costs 40 ms per Instance with most peers."""
    transport = event.assoc.dul.socket
    if transport is not None and transport.socket is not None:
        transport.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _not_associated(peer: Peer, association: Association, reached: bool) -> Temporary | Fatal:
    """Why there is no Association, as the error that says who acts next."""
    if not reached:
        return Temporary(f"{peer} cannot be reached")
    if association.is_rejected:
        answer = association.acceptor.primitive
        reason = getattr(answer, "reason_str", "no reason given")
        sentence = f"{peer} rejected the association: {reason}"
        if getattr(answer, "result", None) == _PERMANENT_REJECTION:
            return Fatal(f"{sentence}; let it accept our AE title there, then resend")
        return Temporary(sentence)
    if association.rejected_contexts:
        return Fatal(f"{peer} accepts none of: {_names(association)}; enable it there, then resend")
    return Temporary(f"{peer} did not answer, or broke off the association request")


def _names(association: Association) -> str:
    names = {UID(str(c.abstract_syntax)).name for c in association.rejected_contexts}
    return ", ".join(sorted(names))


def _require_accepted(peer: Peer, association: Association, file: Dataset) -> None:
    wanted = (file.SOPClassUID, file.file_meta.TransferSyntaxUID)
    for context in association.accepted_contexts:
        if context.abstract_syntax == wanted[0] and wanted[1] in context.transfer_syntax:
            return
    raise Fatal(
        f"{peer} refused {UID(wanted[0]).name} in {UID(wanted[1]).name}: "
        "it does not accept it; enable it there, then resend"
    )


def _store(peer: Peer, association: Association, file: Dataset) -> str:
    try:
        status = association.send_c_store(file)
    except RuntimeError as error:  # the Association ended between two files
        raise Temporary(f"{peer} ended the association: {error}") from error
    return _require_answer(peer, status)


def _require_answer(peer: Peer, status: Dataset) -> str:
    """The answer in words. Raises Temporary (A7xx, silence) or Fatal (any other refusal)."""
    if "Status" not in status:
        raise Temporary(f"{peer} did not answer within {peer.timeout_seconds:g} s, or broke off")
    code = int(status.Status)
    comment = str(status.get("ErrorComment", "") or "")
    words = f"0x{code:04X}" + (f" ({comment})" if comment else "")
    if code in STORED:
        return f"stored, {words}"
    if 0xA700 <= code <= 0xA7FF:
        raise Temporary(f"{peer} is out of resources: {words}")
    if code == _PROCESSING_FAILURE:
        raise Temporary(f"{peer} failed to process it: {words}")
    raise Fatal(f"{peer} refused with status {words}; change it there, then resend")
