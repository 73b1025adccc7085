"""Secure connections as BCP 195 asks for them, for DICOM and DICOMweb (PS3.15 B.12, RFC 9325).

TLS 1.2 with the suites that RFC 9325 4.2 recommends, or TLS 1.3; nothing older. Files are read
whenever a context is made, so that a renewed certificate counts from the next connection on.
"""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from node.core.errors import ConfigError

# TLS 1.2: forward secrecy and authenticated encryption only. TLS 1.3 has no other suites.
_SUITES: Final = ":".join(
    [
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-RSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-RSA-AES128-GCM-SHA256",
    ]
)


@dataclass(frozen=True)
class Tls:
    """How we show ourselves, and whom we believe. PEM files.

    ca: whose certificates are believed; None: those that the machine believes.
    certificate, key: our own; a key of None stands in the certificate's file.
    verify_host_name: whether a Peer's certificate has to name the host that we connect to.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    verify_host_name: bool = True


def client_context(tls: Tls) -> ssl.SSLContext:
    """For connections that we open. Raises ConfigError naming a file that cannot be used."""
    context = _strong(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))  # verifies; host names as well
    context.check_hostname = tls.verify_host_name
    if tls.ca is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        _believe(context, tls.ca)
    if tls.certificate is not None:
        _show(context, tls.certificate, tls.key)
    return context


def server_context(certificate: Path, key: Path | None, ca: Path | None) -> ssl.SSLContext:
    """For connections that others open to us. Raises ConfigError naming a file.

    ca: callers need a certificate that it signed; None: nobody is asked for one.
    """
    context = _strong(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    _show(context, certificate, key)
    if ca is not None:
        _believe(context, ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _strong(context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_SUITES)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    return context


def _believe(context: ssl.SSLContext, ca: Path) -> None:
    _use(ca, "is not a certificate authority's PEM file", lambda: context.load_verify_locations(ca))


def _show(context: ssl.SSLContext, certificate: Path, key: Path | None) -> None:
    for path in (certificate, key or certificate):  # load_cert_chain does not say which it misses
        _use(path, "", path.read_bytes)
    wrong = f"and its key ({key or 'in the same file'}) are not a pair of PEM files"
    _use(certificate, wrong, lambda: context.load_cert_chain(certificate, key, _no_password))


def _use(path: Path, wrong: str, read: Callable[[], object]) -> None:
    try:
        read()
    except ssl.SSLError as error:
        raise ConfigError(f"{path} {wrong}: {error.reason or error}") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error


def _no_password() -> NoReturn:
    """OpenSSL would ask for it at the terminal, where nobody sits."""
    raise ConfigError("the private key is encrypted; keep it without a password, mode 0600")
