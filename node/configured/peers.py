"""Peers: how each is spoken to, and what it gets."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import SecretStr

from node.core.config import Config
from node.core.names import AETitle
from node.core.result import Wants
from node.core.sections import PeerSection, TlsSection
from node.core.wants import wants_of
from node.dicom.scu.peer import Peer, Web
from node.dicom.tls import Tls


def peers_of(config: Config) -> Mapping[str, Peer]:
    """The Peers of the configuration by name."""
    return {name: _peer(name, section, config.dicom.tls) for name, section in config.peers.items()}


def wants_by_peer(config: Config) -> Mapping[str, Wants]:
    """Which result objects each Peer gets, by its name."""
    return {
        name: wants_of(section.profile, section.results.model_dump())
        for name, section in config.peers.items()
    }


def gets_nothing(config: Config) -> Sequence[str]:
    """The Peers that a Route sends to and whose settings leave no object that they could get."""
    wants = wants_by_peer(config)
    named = {name for route in config.routes for name in route.send_to}
    return sorted(name for name in named if wants[name].nothing)


def _peer(name: str, section: PeerSection, ours: TlsSection) -> Peer:
    return Peer(
        name,
        AETitle(section.ae_title or ""),
        section.host or "",
        section.port or 0,
        section.timeout_seconds,
        tls=_tls(section, ours, section.tls_ca or ours.ca) if section.tls else None,
        web=_web(section, ours) if section.url else None,
        commitment=section.commitment,
        max_associations=section.max_associations,
        commitment_ae_title=AETitle(section.commitment_ae_title or "") or None,
    )


def _tls(section: PeerSection, ours: TlsSection, ca: Path | None) -> Tls:
    """The Peer's own certificate and key go together, and so do the node's."""
    own = section.tls_certificate is not None
    return Tls(
        ca,
        section.tls_certificate if own else ours.certificate,
        section.tls_key if own else ours.key,
        section.tls_verify_host_name,
    )


def _web(section: PeerSection, ours: TlsSection) -> Web:
    def text(secret: SecretStr | None) -> str:
        return secret.get_secret_value() if secret else ""

    return Web(
        (section.url or "").rstrip("/"),
        section.user or "",
        text(section.password),
        text(section.token),
        _tls(section, ours, section.tls_ca),
    )
