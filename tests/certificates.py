"""Certificates for one test, made by the openssl command; none is kept in the repository."""

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

from node.dicom.receiver.settings import TlsFiles
from tests.peers import tool


@dataclass(frozen=True)
class Pair:
    """A certificate and its key."""

    certificate: Path
    key: Path


class Authority:
    """A hospital's certificate authority, in a folder of its own."""

    def __init__(self, folder: Path, name: str = "hospital") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._name = folder, name
        self.certificate, self._key = folder / f"{name}.crt", folder / f"{name}.key"
        _openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
            "-nodes", "-keyout", self._key, "-out", self.certificate, "-days", "2",
            "-subj", f"/CN={name}",
        )  # fmt: skip

    def issue(self, name: str, alternative: str = "IP:127.0.0.1", days: int = 1) -> Pair:
        """For a server or a client. alternative: Subject Alternative Name; days -1: expired."""
        pair = Pair(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        request, extensions = self._folder / f"{name}.csr", self._folder / f"{name}.ext"
        _openssl(
            "req", "-newkey", "rsa:2048", "-nodes", "-keyout", pair.key, "-out", request,
            "-subj", f"/CN={name}",
        )  # fmt: skip
        extensions.write_text(f"subjectAltName={alternative}\n")
        _openssl(
            "x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self._key,
            "-CAcreateserial", "-out", pair.certificate, "-days", days, "-extfile", extensions,
        )  # fmt: skip
        return pair

    def signs(self, name: str) -> Pair:
        """A certificate for this name, and for this machine."""
        return self.issue(name, "DNS:localhost,IP:127.0.0.1")

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


def _openssl(*arguments: object) -> None:
    command = [tool("openssl"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
