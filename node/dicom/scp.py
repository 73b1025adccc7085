"""The Storage and Verification SCP: what may come in, and which status it gets (PS3.4 B.2.3)."""

import errno
import socket
import threading
from collections.abc import Callable, Collection
from typing import Any, Final, cast

import structlog
from pydicom.uid import DeflatedExplicitVRLittleEndian
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.events import Event
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # built at import

from node.core.errors import ConfigError
from node.core.names import AETitle
from node.dicom.header import Undecodable, read_header
from node.dicom.inbox import DiskFull, Inbox, Received

log = structlog.get_logger()

SUCCESS: Final = 0x0000
PROCESSING_FAILURE: Final = 0x0110  # PS3.7 C.5.7
OUT_OF_RESOURCES: Final = 0xA700
DATA_SET_DOES_NOT_MATCH: Final = 0xA900
CANNOT_UNDERSTAND: Final = 0xC000

STOP_SECONDS: Final = 2.0
_DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

# Deflated data sets grow a thousandfold when they are read; nobody sends them.
TRANSFER_SYNTAXES: Final = [
    uid for uid in ALL_TRANSFER_SYNTAXES if uid != DeflatedExplicitVRLittleEndian
]


class StorageSCP:
    """Listens, and keeps every Instance in the Inbox before it is acknowledged.

    accept_from: calling AE Titles that may associate, or None for anyone. on_kept is called on
    the Association's thread after each Instance that is safe; it must return at once.
    """

    def __init__(
        self,
        inbox: Inbox,
        *,
        ae_title: AETitle,
        accept_from: Collection[AETitle] | None,
        on_kept: Callable[[], None] = lambda: None,
        max_associations: int = 25,
        idle_seconds: float = 60.0,
        max_pdu_bytes: int = 128 * 1024,
    ) -> None:
        self._inbox = inbox
        self._on_kept = on_kept
        self._ae = _application_entity(ae_title, accept_from)
        self._ae.maximum_associations = max_associations
        self._ae.network_timeout = idle_seconds
        self._ae.maximum_pdu_size = max_pdu_bytes

    def start(self, host: str, port: int) -> int:
        """Begins to listen; port 0 takes a free one. Returns the port. Raises ConfigError."""
        handlers: list[Any] = [
            (evt.EVT_CONN_OPEN, self._on_connection),
            (evt.EVT_C_STORE, self._on_c_store),
            (evt.EVT_ACCEPTED, _log_acceptance),
            (evt.EVT_REJECTED, _log_rejection),
            (evt.EVT_RELEASED, _log_release),
            (evt.EVT_ABORTED, _log_abort),
        ]
        try:
            server = self._ae.start_server((host, port), block=False, evt_handlers=handlers)
        except OSError as error:
            raise ConfigError(f"dicom.port: cannot listen on {host}:{port}: {error}") from error
        assert server is not None  # not blocking
        return int(server.server_address[1])

    def stop(self) -> None:
        """Stops listening and aborts what is still associated; does not wait for silent peers."""
        ending = threading.Thread(target=self._ae.shutdown, daemon=True)
        ending.start()
        ending.join(STOP_SECONDS)

    def _on_connection(self, event: Event) -> None:
        """Bounds the silence within a PDU, too: pynetdicom's own timeout ends where one begins."""
        send_without_delay(event)
        transport = event.assoc.dul.socket
        if transport is not None and transport.socket is not None:
            transport.socket.settimeout(self._ae.network_timeout)

    def _on_c_store(self, event: Event) -> int:
        request = cast(C_STORE, event.request)
        received = Received(
            data_set=request.DataSet.getvalue() if request.DataSet else b"",
            sop_class_uid=str(request.AffectedSOPClassUID),
            sop_instance_uid=str(request.AffectedSOPInstanceUID),
            transfer_syntax_uid=str(event.context.transfer_syntax),
            calling_ae_title=_calling_ae_title(event),
        )
        status = self._store(received)
        if status == SUCCESS:
            self._on_kept()
        return status

    def _store(self, received: Received) -> int:
        try:
            header = read_header(received.data_set, received.transfer_syntax_uid)
        except Undecodable as error:
            return self._refuse_undecodable(received, str(error))
        identity = (header.sop_class_uid, header.sop_instance_uid)
        if identity != (received.sop_class_uid, received.sop_instance_uid):
            log.warning(
                "instance refused: the request names another SOP Class or Instance than its data",
                sop_instance_uid=received.sop_instance_uid,
            )
            return DATA_SET_DOES_NOT_MATCH
        return self._keep(received)

    def _keep(self, received: Received) -> int:
        try:
            self._inbox.keep(received)
        except OSError as error:
            log.error(
                "instance refused: it cannot be written",
                sop_instance_uid=received.sop_instance_uid,
                error=str(error),
            )
            full = isinstance(error, DiskFull) or error.errno in _DISK_FULL
            return OUT_OF_RESOURCES if full else PROCESSING_FAILURE
        return SUCCESS

    def _refuse_undecodable(self, received: Received, reason: str) -> int:
        kept: str | None = None
        try:
            kept = self._inbox.set_aside(received, reason).name
        except OSError as error:
            log.error("an undecodable data set cannot be kept aside", error=str(error))
        log.warning(
            "instance refused: undecodable data set",
            calling_ae_title=received.calling_ae_title,
            sop_instance_uid=received.sop_instance_uid,
            reason=reason,
            kept_aside=kept,
        )
        return CANNOT_UNDERSTAND


def _application_entity(ae_title: AETitle, accept_from: Collection[AETitle] | None) -> AE:
    ae = AE(ae_title=ae_title)
    ae.add_supported_context(Verification)
    for context in AllStoragePresentationContexts:
        assert context.abstract_syntax is not None  # the table is pynetdicom's own
        ae.add_supported_context(context.abstract_syntax, TRANSFER_SYNTAXES)
    if accept_from is not None:
        ae.require_calling_aet = [str(title) for title in accept_from]
    return ae


def send_without_delay(event: Event) -> None:
    """Sends each PDU at once: Nagle's wait costs 40 ms per Instance with most peers."""
    transport = event.assoc.dul.socket
    if transport is not None and transport.socket is not None:
        transport.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _calling_ae_title(event: Event) -> AETitle:
    return AETitle(str(event.assoc.requestor.ae_title).strip())


def _log_acceptance(event: Event) -> None:
    log.info("association accepted", calling_ae_title=_calling_ae_title(event))


def _log_release(event: Event) -> None:
    log.info("association released", calling_ae_title=_calling_ae_title(event))


def _log_rejection(event: Event) -> None:
    log.warning(
        "association rejected",
        calling_ae_title=_calling_ae_title(event),
        address=event.assoc.requestor.address,
    )


def _log_abort(event: Event) -> None:
    log.warning("association aborted", calling_ae_title=_calling_ae_title(event))
