"""Connections: pynetdicom's server on the node's socket, with an Association of ours for each."""

import socket
import time
from typing import Any

from pynetdicom import AE, evt
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from node.core.errors import ConfigError
from node.dicom.receiver.association import ReceivingAssociation
from node.dicom.receiver.secure import Certificates, first_bytes, hang_up, is_plain_dicom, why
from node.dicom.receiver.surroundings import Surroundings


class _Handler(RequestHandler):
    """Makes a ReceivingAssociation of each connection."""

    server: "ReceivingServer"
    request: socket.socket

    def handle(self) -> None:
        """On the connection's own thread: a handshake keeps nobody else waiting."""
        if self.server.certificates is None or self._shakes_hands(self.server.certificates):
            super().handle()
        else:
            hang_up(self.request)
            self.request.close()

    def _shakes_hands(self, certificates: Certificates) -> bool:
        """Whether the connection is secure now. Until then it is one that waits, see Limits."""
        settings, limits = self.server.around.settings, self.server.around.limits
        deadline = time.monotonic() + settings.associate_seconds
        limits.connected(self, lambda: hang_up(self.request))
        try:
            said = first_bytes(self.request, settings.associate_seconds)
            if not said:
                return False
            if is_plain_dicom(said):
                self._tell("it speaks plain DICOM; this is the TLS port")
                return False
            secure = certificates.wrap(self.request)
            self.request = secure
            secure.shake_hands(max(deadline - time.monotonic(), 0.1), settings.idle_seconds)
        except (ConfigError, OSError) as error:
            self._tell(why(error))
            return False
        finally:
            limits.disconnected(self)
        return True

    def _tell(self, reason: str) -> None:
        event, address = "TLS handshake failed", str(self.client_address[0])
        if self.server.around.seldom.may_say(f"{event}: {reason}", address):
            self.server.around.reports.warning(event, address=address, reason=reason)

    def _create_association(self) -> ReceivingAssociation:
        """As pynetdicom's, which copies 170 contexts for every connection."""
        association = ReceivingAssociation(self.ae, self.server.around)
        association._server = self.server
        association.name = f"AcceptorThread {self.client_address}"  # as pynetdicom looks for it
        association.set_socket(AssociationSocket(association, client_socket=self.request))
        acceptor = association.acceptor
        acceptor.maximum_length = self.ae.maximum_pdu_size
        acceptor.ae_title = self.server.ae_title
        acceptor.address_info = self.local
        acceptor.implementation_class_uid = self.ae.implementation_class_uid
        acceptor.implementation_version_name = self.ae.implementation_version_name
        acceptor.supported_contexts = self.server.contexts
        association.requestor.address_info = self.remote
        association.bind(evt.EVT_RELEASED, lambda _: association.settle())
        association.bind(evt.EVT_REJECTED, lambda _: association.tell_stranger())
        self.server.around.limits.connected(association, lambda: hang_up(self.request))
        return association


class ReceivingServer(ThreadedAssociationServer):
    """Accepts connections on a socket that listens already, by TLS where it has certificates."""

    daemon_threads = True

    def __init__(
        self,
        ae: AE,
        listener: socket.socket,
        around: Surroundings,
        certificates: Certificates | None = None,
    ) -> None:
        self._listener, self.around, self.certificates = listener, around, certificates
        name = listener.getsockname()
        title = around.settings.ae_title
        super().__init__(ae, name, title, ae.supported_contexts, request_handler=_Handler)

    def server_bind(self) -> None:
        """Takes the socket that the node bound."""
        assert self.socket is not None
        self.socket.close()
        self.socket = self._listener
        self.server_address = self._listener.getsockname()

    def server_activate(self) -> None:
        """The node did."""

    def get_request(self) -> tuple[socket.socket, Any]:
        """One connection; sends each PDU at once and bounds every wait of a blocking call."""
        connection, address = self._listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(self.around.settings.idle_seconds)
        return connection, address

    def service_actions(self) -> None:
        """pynetdicom's sweeps the garbage of every thirtieth turn; Python does so itself."""
