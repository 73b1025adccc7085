"""TLS under an Association that we ask for, and whose turn it is where there is none."""

import errno
import ssl
from typing import Any

from node.core.errors import ConfigError, Fatal, Temporary
from node.dicom.scu.peer import Peer
from node.dicom.tls import client_context


class Outspoken(ssl.SSLSocket):
    """Hears what the other side said before it hung up while we were sending.

    That is an alert, raised as it is (in TLS 1.3 a certificate is refused after the handshake), or
    an answer, which is kept for who reads.
    """

    _heard: bytes = b""

    def send(self, data: Any, flags: int = 0) -> int:
        try:
            return super().send(data, flags)
        except (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError) as error:
            self._heard += super().read(1)
            raise BrokenPipeError(errno.EPIPE, "it hung up while we were sending") from error

    def read(self, len: int = 1024, buffer: Any = None) -> Any:
        if not self._heard:
            return super().read(len, buffer)
        heard, self._heard = self._heard, b""
        if buffer is None:
            return heard
        buffer[:1] = heard
        return 1


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

        class Socket(Outspoken):
            def do_handshake(self, block: bool = False) -> None:
                with handshake._kept():
                    super().do_handshake(block)

            def send(self, data: Any, flags: int = 0) -> int:
                with handshake._kept():
                    return super().send(data, flags)

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
