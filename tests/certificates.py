"""Certificates for one test, made by the openssl command; none is kept in the repository."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

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


def _openssl(*arguments: object) -> None:
    command = [tool("openssl"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
