"""An Association that we ask for, and why there is none (PS3.8 7.1, 9.3.4)."""

import socket
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

from pynetdicom import AE, build_context, evt
from pynetdicom.association import Association
from pynetdicom.events import Event
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation

from node.core.errors import Fatal, SegnodeError, Temporary
from node.core.names import AETitle
from node.core.text import clean
from node.dicom.scu.peer import Peer
from node.dicom.scu.secure import Handshake
from node.dicom.uid_names import uid_name

MOST_CONTEXTS: Final = 128  # of one Association (PS3.8 9.3.2.2)
_PERMANENT_REJECTION: Final = 1  # PS3.8 9.3.4, Result

Contexts = Iterable[tuple[str, str | None]]  # SOP Class, Transfer Syntax; None: the usual ones


class NotAccepted(Fatal):
    """The Peer accepts none of the SOP Classes that we would speak of."""


@contextmanager
def associated(
    peer: Peer,
    calling_ae_title: AETitle,
    contexts: Contexts,
    handlers: Sequence[Any] = (),
    roles: Sequence[SCP_SCU_RoleSelectionNegotiation] = (),
) -> Iterator[Association]:
    """An Association for what is done within, released after it; aborted where that is a bug.

    handlers: of pynetdicom. Raises Temporary or Fatal where there is none.
    """
    if not peer.host:
        raise Fatal(f"{peer} has no AE; give it ae_title, host and port in the configuration")
    association = _asked_for(peer, calling_ae_title, contexts, handlers, roles)
    try:
        yield association
    except SegnodeError:
        _released(association)
        raise
    except BaseException:
        cut(association)
        raise
    _released(association)


def cut(association: Association) -> None:
    """Aborts it, and closes the connection whatever the Peer does with it."""
    association.abort(block=False)
    association.dul.join(0.2)  # the A-ABORT goes out
    transport = association.dul.socket
    if transport is not None and transport.socket is not None:
        with suppress(OSError):
            transport.socket.shutdown(socket.SHUT_RDWR)  # wakes who reads or writes
    association.kill()


def _released(association: Association) -> None:
    if association.is_established:
        association.release()


def _asked_for(
    peer: Peer,
    calling_ae_title: AETitle,
    contexts: Contexts,
    handlers: Sequence[Any],
    roles: Sequence[SCP_SCU_RoleSelectionNegotiation],
) -> Association:
    handshake = Handshake(peer)
    reached = threading.Event()

    def on_connection(event: Event) -> None:
        reached.set()
        send_without_delay(event)
        _bound_each_wait(event, peer.timeout_seconds)

    try:
        association = _ae(peer, calling_ae_title).associate(
            peer.host,
            peer.port,
            [build_context(*context) for context in contexts],
            ae_title=peer.ae_title,
            ext_neg=list(roles),
            evt_handlers=[(evt.EVT_CONN_OPEN, on_connection), *handlers],
            tls_args=handshake.tls_args,
        )
    except OSError as error:  # a name that cannot be resolved, for one
        raise Temporary(f"{peer} cannot be reached: {error}") from error
    if not association.is_established:
        raise handshake.why() or _not_associated(peer, association, reached.is_set())
    return association


def _ae(peer: Peer, calling_ae_title: AETitle) -> AE:
    ae = AE(ae_title=calling_ae_title)
    ae.connection_timeout = peer.timeout_seconds
    ae.acse_timeout = peer.timeout_seconds
    ae.dimse_timeout = peer.timeout_seconds
    ae.network_timeout = peer.timeout_seconds
    return ae


def send_without_delay(event: Event) -> None:
    """Sends each PDU at once: Nagle's wait costs 40 ms per Instance with most peers."""
    transport = event.assoc.dul.socket
    if transport is not None and transport.socket is not None:
        transport.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _bound_each_wait(event: Event, seconds: float) -> None:
    """For a Peer that stops reading, or within a PDU: pynetdicom would wait for ever."""
    transport = event.assoc.dul.socket
    if transport is not None and transport.socket is not None:
        transport.socket.settimeout(seconds)


def _not_associated(peer: Peer, association: Association, reached: bool) -> Temporary | Fatal:
    """Why there is no Association, as the error that says who acts next."""
    if not reached:
        return Temporary(f"{peer} cannot be reached")
    if association.is_rejected:
        answer = association.acceptor.primitive
        reason = clean(str(getattr(answer, "reason_str", "no reason given")))
        sentence = f"{peer} rejected the association: {reason}"
        if getattr(answer, "result", None) == _PERMANENT_REJECTION:
            return Fatal(f"{sentence}; let it accept our AE title there, then resend")
        return Temporary(sentence)
    if association.rejected_contexts:
        names = _names(association)
        return NotAccepted(f"{peer} accepts none of: {names}; enable it there, then resend")
    return Temporary(f"{peer} did not answer, or broke off the association request")


def _names(association: Association) -> str:
    names = {uid_name(str(c.abstract_syntax)) for c in association.rejected_contexts}
    return ", ".join(sorted(names))
