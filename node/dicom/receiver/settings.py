"""What the receiving process is told: plain values, since they travel as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Self

NOTHING: Final = -1  # in place of the descriptor of a socket that does not listen


@dataclass(frozen=True)
class TlsFiles:
    """PEM files. key: None where it stands in the certificate's. ca: None where nobody is asked."""

    certificate: str
    key: str | None = None
    ca: str | None = None

    @property
    def paths(self) -> list[str]:
        return [one for one in (self.certificate, self.key, self.ca) if one is not None]

    def paths_of_context(self) -> tuple[Path, Path | None, Path | None]:
        """As `server_context` takes them."""
        key, ca = (None if one is None else Path(one) for one in (self.key, self.ca))
        return Path(self.certificate), key, ca


@dataclass(frozen=True)
class Settings:
    """One receiving process. contexts: SOP Class UIDs that may come, besides Verification.

    accept_from: calling AE Titles that may associate, None for anyone. check_called_ae_title:
    whether they must call us by `ae_title`. echo_only: those of them
    that may not store. tls_only: those that may not come over the plain port. commits_to: those
    that may ask for Storage Commitment. min_free_bytes: with less, Instances are refused;
    low_free_bytes: with less, the log says so. max_aside_bytes: of refused Instances that are kept
    for a person to look at.
    """

    data_dir: str
    ae_title: str
    sop_classes: Sequence[str]
    transfer_syntaxes: Sequence[str]
    accept_from: Sequence[str] | None = None
    check_called_ae_title: bool = False
    echo_only: Sequence[str] = ()
    tls_only: Sequence[str] = ()
    commits_to: Sequence[str] = ()
    tls: TlsFiles | None = None
    max_associations: int = 25
    max_associations_per_peer: int = 10
    idle_seconds: float = 60.0
    associate_seconds: float = 10.0
    max_pdu_bytes: int = 128 * 1024
    max_instance_bytes: int = 4_000_000_000
    min_free_bytes: int = 0
    low_free_bytes: int = 0
    max_aside_bytes: int = 1_000_000_000

    @property
    def incoming(self) -> Path:
        return Path(self.data_dir) / "incoming"

    @property
    def aside(self) -> Path:
        return Path(self.data_dir) / "aside"

    def as_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        told = json.loads(text)
        files = told.pop("tls", None)
        return cls(**told, tls=TlsFiles(**files) if files else None)
