"""Whether every Peer answers, and does what the configuration wants of it."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from node.core.errors import SegnodeError
from node.core.names import AETitle
from node.core.uids import derive_uid
from node.dicom.scu.commitment import NotSupported, require_supported
from node.dicom.scu.peer import Peer
from node.dicom.scu.query import querying
from node.dicom.scu.storage import echo
from node.finding import Finding


def check_peers(
    peers: Mapping[str, Peer],
    calling_ae_title: AETitle,
    *,
    needed: Collection[str],
    queried: Collection[str],
) -> Iterator[Finding]:
    """needed: those that a route sends to. queried: those that count Series."""
    for name, peer in peers.items():
        found = _check_peer(peer, calling_ae_title, name in needed, name in queried)
        yield from (_named_once(peer, one) for one in found)


def _check_peer(
    peer: Peer, calling_ae_title: AETitle, is_needed: bool, counts: bool
) -> Iterator[Finding]:
    try:
        yield from _answering(peer, calling_ae_title)
    except SegnodeError as error:
        if is_needed:
            yield Finding("FAULT", f"peer {peer.name}", str(error))
        else:
            yield Finding("note", f"peer {peer.name}", f"{error}; no route sends to it")
        return
    if counts:
        yield _counting(peer, calling_ae_title)
    if peer.commitment:
        yield _committing(peer, calling_ae_title)


def _named_once(peer: Peer, found: Finding) -> Finding:
    """Its name stands in the subject already; elsewhere sentences begin with it."""
    sentence = found.sentence
    for one in (peer, replace(peer, web=None)):
        sentence = sentence.replace(str(one), str(one).removeprefix(f"{peer.name} (")[:-1], 1)
    return replace(found, sentence=sentence)


def _answering(peer: Peer, calling_ae_title: AETitle) -> Iterator[Finding]:
    """Both ways to speak to it, where it has two. Raises what keeps one from answering."""
    if peer.web is not None:
        echo(peer, calling_ae_title)
        yield Finding("ok", f"peer {peer.name}", f"{peer} answers QIDO-RS")
        if peer.web.url.startswith("http:") and (peer.web.user or peer.web.token):
            sentence = f"{peer}: user and password, or the token, go there in the clear; use https"
            yield Finding("note", f"peer {peer.name}", sentence)
    if peer.host:
        ae = replace(peer, web=None)
        echo(ae, calling_ae_title)
        over = " over TLS" if peer.tls else ""
        yield Finding("ok", f"peer {peer.name}", f"{ae} answers C-ECHO{over}")


def _counting(peer: Peer, calling_ae_title: AETitle) -> Finding:
    """Whether a Peer that is to count Series lets us ask."""
    nobodys = derive_uid("check")
    try:
        with querying(peer, calling_ae_title) as query:
            query.count(nobodys, nobodys)
    except SegnodeError as error:
        sentence = f"{error}; let our AE title do C-FIND there, or set query = false"
        return Finding("FAULT", f"peer {peer.name}", sentence)
    return Finding("ok", f"peer {peer.name}", f"{peer} answers C-FIND")


def _committing(peer: Peer, calling_ae_title: AETitle) -> Finding:
    """Whether a Peer that is to commit to results can be asked to."""
    try:
        require_supported(peer, calling_ae_title)
    except NotSupported as error:
        sentence = f"{error}; until then it is asked whether it holds each result"
        return Finding("note", f"peer {peer.name}", sentence)
    except SegnodeError as error:
        return Finding("FAULT", f"peer {peer.name}", str(error))
    return Finding("ok", f"peer {peer.name}", f"{peer} accepts Storage Commitment")
