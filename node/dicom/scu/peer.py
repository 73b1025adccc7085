"""A Peer: a named remote AE, or a DICOMweb server, and how it is spoken to."""

from dataclasses import dataclass, field

from node.core.names import AETitle
from node.dicom.tls import Tls


@dataclass(frozen=True)
class Web:
    """The DICOMweb side of a Peer (PS3.18). Secrets are not in its repr.

    user and password, or a token (Bearer), or none of them. tls: for https.
    """

    url: str
    user: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    tls: Tls = field(default_factory=Tls)


@dataclass(frozen=True)
class Peer:
    """A named remote AE. timeout_seconds bounds the connection and each answer.

    tls: None for a connection in the clear. web: where set, objects go there by STOW-RS and
    questions by QIDO-RS; the AE may then be missing (host is "").
    commitment: whether it is to be asked for Storage Commitment, which is DIMSE's;
    commitment_ae_title: under which it reports, None for its own.
    max_associations: that we may have open to it at once.
    """

    name: str
    ae_title: AETitle
    host: str
    port: int
    timeout_seconds: float = 30.0
    tls: Tls | None = None
    web: Web | None = None
    commitment: bool = False
    max_associations: int = 1
    commitment_ae_title: AETitle | None = None

    def __str__(self) -> str:
        if self.web is not None:
            return f"{self.name} ({self.web.url})"
        return f"{self.name} ({self.address})"

    @property
    def reports_as(self) -> AETitle:
        """By what title it calls us to report what it commits to (PS3.4 J.3.3)."""
        return self.commitment_ae_title or self.ae_title

    @property
    def address(self) -> str:
        """Of its AE, in words."""
        return f"{self.ae_title} at {self.host}:{self.port}"
