"""TLS under an Association that we ask for, and whose turn it is where there is none."""

import ssl
from typing import Any

from node.core.errors import ConfigError, Fatal, Temporary
from node.dicom.scu.peer import Peer
from node.dicom.tls import client_context


class Handshake:
    """The TLS of one Association; keeps what went wrong, which pynetdicom only logs."""

    def __init__(self, peer: Peer) -> None:
        """Raises Fatal naming a file of ours that cannot be used."""
        self.failure: ssl.SSLError | None = None
        self._peer = peer
        self.tls_args = (self._context(), peer.host) if peer.tls else None

    def _context(self) -> ssl.SSLContext:
        assert self._peer.tls is not None
        try:
            context = client_context(self._peer.tls)
        except ConfigError as error:
            raise Fatal(f"{self._peer} cannot be spoken to: {error}") from error
        context.sslsocket_class = self._socket_class()
        return context

    def _socket_class(self) -> type[ssl.SSLSocket]:
        handshake = self

        class Socket(ssl.SSLSocket):
            def do_handshake(self, block: bool = False) -> None:
                with handshake._kept():
                    super().do_handshake(block)

            def read(self, len: int = 1024, buffer: Any = None) -> Any:
                with handshake._kept():  # in TLS 1.3 it is here that our certificate is refused
                    return super().read(len, buffer)

        return Socket

    def _kept(self) -> "_Kept":
        return _Kept(self)

    def why(self) -> Temporary | Fatal | None:
        """What TLS said, as the error that says who acts next; None if it said nothing."""
        if self.failure is None:
            return None
        return said_by_tls(self._peer, self.failure)


class _Kept:
    def __init__(self, handshake: Handshake) -> None:
        self._handshake = handshake

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, ssl.SSLError):
            self._handshake.failure = error


def said_by_tls(peer: Peer, error: ssl.SSLError) -> Temporary | Fatal:
    """A failure of TLS as the error that says who acts next."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return Fatal(
            f"{peer}: its certificate is not believed: {error.verify_message}; renew it there, or "
            "set tls_ca here to the authority that signed it, then resend"
        )
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError | ssl.SSLSyscallError):
        return Temporary(f"{peer} ended the TLS connection")
    reason = (error.reason or str(error)).lower().replace("_", " ")
    return Fatal(
        f"{peer}: no TLS connection: {reason}; check there that it speaks TLS 1.2 or later on this "
        "port and believes our certificate, then resend"
    )
