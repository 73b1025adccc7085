"""Connections by TLS (PS3.15 B.12): the handshake, and reads that never block after it.

A handshake takes a peer's time, so it has a thread of its own and a limit; who says nothing is
dropped without a word, as on the plain port.
"""

import contextlib
import os
import select
import socket
import ssl
import threading
import time
from pathlib import Path
from typing import Final

from node.core.errors import ConfigError
from node.dicom.receiver.settings import TlsFiles
from node.dicom.tls import server_context

_PLAIN_DICOM: Final = 0x01  # the first byte of an A-ASSOCIATE-RQ (PS3.8 9.3.2); of TLS it is 0x16
_SENTENCES: Final = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": (
        "it shows no certificate, and dicom.tls.require_client_certificate asks for one"
    ),
    "UNSUPPORTED_PROTOCOL": "it offers nothing newer than TLS 1.1",
    "VERSION_TOO_LOW": "it offers nothing newer than TLS 1.1",
    "NO_SHARED_CIPHER": "it offers none of the cipher suites that BCP 195 recommends",
    "WRONG_VERSION_NUMBER": "it does not speak TLS",
    "HTTP_REQUEST": "it speaks HTTP",
}


class SecureConnection(ssl.SSLSocket):
    """A connection by TLS. One thread reads and sends; any may hang up, see `hang_up`."""

    send_seconds = 60.0

    def shake_hands(self, seconds: float, send_seconds: float) -> None:
        """Takes at most so long. From then on reads never block, and a send send_seconds at most.

        Raises OSError.
        """
        self.settimeout(seconds)  # a deadline: bytes that trickle in do not extend it
        self.do_handshake()
        self.send_seconds = send_seconds
        self.setblocking(False)

    def read_now(self, view: memoryview) -> int:
        """At most one record; what OpenSSL holds comes before what the socket has.

        Returns 0 at the end. Raises BlockingIOError where no whole record is there yet.
        """
        while True:
            try:
                return self.recv_into(view)
            except ssl.SSLWantReadError:
                raise BlockingIOError from None
            except ssl.SSLWantWriteError:  # TLS 1.3 answers a KeyUpdate first (RFC 8446 4.6.3)
                self._wait_until_it_takes_more(time.monotonic() + self.send_seconds)

    def send(self, data: "bytes | memoryview", flags: int = 0) -> int:  # type: ignore[override]
        """Waits until the peer takes it."""
        deadline = time.monotonic() + self.send_seconds
        while True:
            try:
                return super().send(data, flags)
            except ssl.SSLWantWriteError:
                self._wait_until_it_takes_more(deadline)

    def shutdown(self, how: int) -> None:
        """Tells the peer first that nothing was cut off (RFC 8446 6.1); waits for no answer."""
        with contextlib.suppress(OSError, ValueError):
            self.unwrap()
        super().shutdown(how)

    def _wait_until_it_takes_more(self, deadline: float) -> None:
        poll = select.poll()
        poll.register(self, select.POLLOUT)
        if not poll.poll(max(deadline - time.monotonic(), 0.0) * 1000):
            raise TimeoutError("the peer takes no more")


class Certificates:
    """The TLS side of the node. A certificate that is renewed counts from the next connection."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._lock = threading.Lock()
        self._context: ssl.SSLContext | None = None
        self._as_of: list[tuple[int, int]] = []

    def wrap(self, connection: socket.socket) -> SecureConnection:
        """The connection, before its handshake. Raises ConfigError, OSError."""
        wrapped = self._current().wrap_socket(
            connection, server_side=True, do_handshake_on_connect=False
        )
        assert isinstance(wrapped, SecureConnection)
        return wrapped

    def _current(self) -> ssl.SSLContext:
        """As the files are now; as they were before where they do not fit together."""
        with self._lock:
            as_of = [_version(path) for path in self._files.paths]
            if self._context is None or as_of != self._as_of:
                try:
                    self._context = self._made()
                    self._as_of = as_of
                except ConfigError:  # amid a renewal: the next connection looks again
                    if self._context is None:
                        raise
            return self._context

    def _made(self) -> ssl.SSLContext:
        context = server_context(*self._files.paths_of_context())
        context.sslsocket_class = SecureConnection
        return context


def _version(path: str) -> tuple[int, int]:
    try:
        status = Path(path).stat()
    except OSError:
        return (0, 0)
    return status.st_mtime_ns, status.st_ino


def first_bytes(connection: socket.socket, seconds: float) -> bytes:
    """What a peer says first, left unread; b"" where it hangs up or says nothing for so long."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    if not poll.poll(seconds * 1000):
        return b""
    try:
        return connection.recv(1, socket.MSG_PEEK)
    except OSError:
        return b""


def is_plain_dicom(said: bytes) -> bool:
    """Whether a peer has taken the TLS port for the plain one."""
    return said[0] == _PLAIN_DICOM


def why(error: Exception) -> str:
    """Why a handshake failed, for the administrator of either side."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not believed: {error.verify_message}; "
            "it has to be signed by dicom.tls.ca"
        )
    if isinstance(error, TimeoutError):
        return "it took longer than dicom.associate_seconds"
    if isinstance(error, ssl.SSLEOFError | ConnectionError):
        return "it hung up; it may not believe our certificate"
    reason = getattr(error, "reason", None) or ""
    if "_ALERT_" in reason:
        words = reason.partition("_ALERT_")[2].lower().replace("_", " ")
        return f"it says: {words}; let it believe the authority that signed our certificate"
    return _SENTENCES.get(reason, str(reason or error))


def read_now(connection: socket.socket, view: memoryview) -> int:
    """Reads what has come. Returns 0 at the end. Raises BlockingIOError where nothing has."""
    if isinstance(connection, SecureConnection):
        return connection.read_now(view)
    return os.readv(connection.fileno(), [view])


def hang_up(connection: socket.socket) -> None:
    """Ends a connection from any thread: OpenSSL, which is not for several, is left alone."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
