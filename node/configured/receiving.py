"""Who may send what, and what the receiving process is told."""

from collections.abc import Sequence
from pathlib import Path

from node.core.config import Config
from node.core.names import AETitle
from node.core.sections import TlsSection
from node.dicom.receiver.negotiation import Negotiated, negotiated
from node.dicom.receiver.settings import Settings, TlsFiles


def accepted_titles(config: Config) -> set[AETitle] | None:
    """The calling AE Titles that may send; None for anyone."""
    names = config.dicom.accept_from
    if names is not None and "*" in names:
        return None
    peers = [config.peers[name] for name in (config.peers if names is None else names)]
    titles = [title for peer in peers for title in (peer.ae_title, peer.commitment_ae_title)]
    return {AETitle(title) for title in titles if title is not None}


def why_nobody(config: Config) -> str:
    """Why no calling AE title is accepted, where accepted_titles are none."""
    so = "nobody may send to the node"
    if config.dicom.accept_from is not None:
        return f'{so}: dicom.accept_from is empty; name a peer, or ["*"]'
    if not config.peers:
        return f"{so}: there are no peers; add a [peers.NAME] for the one that sends"
    return (
        f"{so}: no peer has an ae_title; add a [peers.NAME] with that of the one that sends, or "
        'set dicom.accept_from = ["*"]'
    )


def receiver_settings(config: Config) -> Settings:
    """What the receiving process is told."""
    node, dicom = config.node, config.dicom
    titles = accepted_titles(config)
    kinds = negotiation_of(config)
    return Settings(
        data_dir=str(node.data_dir),
        ae_title=dicom.ae_title,
        sop_classes=kinds.accepted,
        transfer_syntaxes=kinds.transfer_syntaxes,
        accept_from=None if titles is None else sorted(titles),
        check_called_ae_title=dicom.check_called_ae_title,
        echo_only=_may_not_store(config),
        tls_only=_tls_only(config),
        commits_to=commits_to(config),
        tls=_tls_files(dicom.tls) if dicom.tls.listens else None,
        max_associations=dicom.max_associations,
        max_associations_per_peer=dicom.max_associations_per_peer,
        idle_seconds=dicom.idle_seconds,
        associate_seconds=dicom.associate_seconds,
        max_pdu_bytes=dicom.max_pdu_kib * 1024,
        max_instance_bytes=dicom.max_instance_mb * 1_000_000,
        min_free_bytes=node.min_free_mb * 1_000_000,
        low_free_bytes=node.low_free_mb * 1_000_000,
        max_aside_bytes=node.max_aside_mb * 1_000_000,
    )


def negotiation_of(config: Config) -> Negotiated:
    """What is accepted of what a sender proposes."""
    return negotiated(config.dicom.accept.model_dump())


def _may_not_store(config: Config) -> Sequence[str]:
    """Of those that may associate; a title that only reports commitments is no sender."""
    own = [p.ae_title for p in config.peers.values() if p.ae_title and not p.may_store]
    senders = set(commits_to(config))
    reporting = {p.commitment_ae_title for p in config.peers.values() if p.commitment_ae_title}
    return own if accepted_titles(config) is None else [*own, *sorted(reporting - senders)]


def commits_to(config: Config) -> Sequence[str]:
    """Who may ask us for Storage Commitment: who may store, and can be answered."""
    return [p.ae_title for p in config.peers.values() if p.ae_title and p.may_store]


def _tls_only(config: Config) -> Sequence[str]:
    """Who may not come over the plain port; nobody where there is no other."""
    secure = [p for p in config.peers.values() if p.tls]
    titles = [title for p in secure for title in (p.ae_title, p.commitment_ae_title) if title]
    return titles if config.dicom.tls.listens else []


def _tls_files(section: TlsSection) -> TlsFiles:
    def text(path: Path | None) -> str | None:
        return None if path is None else str(path)

    return TlsFiles(str(section.certificate), text(section.key), text(section.clients_ca))
