"""Certificates for tests, made by the openssl program: authorities, and what they sign."""

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

from node.dicom.receiver.settings import TlsFiles
from tests.peers import tool


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, PEM."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates; whoever knows `certificate` believes them."""

    def __init__(self, folder: Path, name: str = "hospital") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._name = folder, name
        self._own = self._pair("ca")
        _openssl(
            *["req", "-x509", "-key", str(self._own.key), "-out", str(self.certificate)],
            *["-days", "2", "-subj", f"/CN={name} authority"],
        )

    @property
    def certificate(self) -> Path:
        return self._own.certificate

    def signs(self, name: str) -> Pair:
        """A certificate for this name, and for this machine."""
        made, request = self._pair(name), self._folder / f"{self._name}-{name}.csr"
        extensions = self._folder / f"{self._name}-{name}.ext"
        extensions.write_text("subjectAltName = DNS:localhost, IP:127.0.0.1\n")
        _openssl("req", "-new", "-key", str(made.key), "-out", str(request), "-subj", f"/CN={name}")
        _openssl(
            *["x509", "-req", "-in", str(request), "-out", str(made.certificate), "-days", "2"],
            *["-CA", str(self.certificate), "-CAkey", str(self._own.key), "-CAcreateserial"],
            *["-extfile", str(extensions)],
        )
        return made

    def files(self, pair: Pair, *, asks: bool = True) -> TlsFiles:
        """What the receiver is told. asks: for a certificate that we signed."""
        ca = str(self.certificate) if asks else None
        return TlsFiles(str(pair.certificate), str(pair.key), ca)

    def client(self, pair: Pair | None) -> ssl.SSLContext:
        """A client that believes us, and shows this certificate."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        if pair is not None:
            context.load_cert_chain(pair.certificate, pair.key)
        return context

    def server(self, pair: Pair) -> ssl.SSLContext:
        """A server that asks for a certificate of ours, and shows this one."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(self.certificate))
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(pair.certificate, pair.key)
        return context

    def _pair(self, name: str) -> Pair:
        stem = self._folder / f"{self._name}-{name}"
        pair = Pair(stem.with_suffix(".crt"), stem.with_suffix(".key"))
        curve = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]
        _openssl("genpkey", *curve, "-out", str(pair.key))
        return pair


def _openssl(*arguments: str) -> None:
    subprocess.run([tool("openssl"), *arguments], check=True, capture_output=True, timeout=30)
