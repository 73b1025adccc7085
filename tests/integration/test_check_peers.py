"""`segnode check`: whether each Peer does what is wanted of it."""

from dataclasses import replace
from pathlib import Path

from pydicom.uid import MRImageStorage
from pynetdicom.sop_class import StorageCommitmentPushModel  # type: ignore[attr-defined]

from node.check_peers import check_peers
from node.core.names import AETitle
from node.dicom.scu.peer import Peer, Web
from node.dicom.tls import Tls, server_context
from node.finding import Finding
from tests.certificates import Authority
from tests.peers import free_port
from tests.scripted import BOTH, scripted_peer
from tests.scripted_web import scripted_web

US = AETitle("SEGNODE")


def _found(peer: Peer, *, needed: bool = True) -> list[Finding]:
    names = [peer.name] if needed else []
    return list(check_peers({peer.name: peer}, US, needed=names, queried=[]))


def test_a_peer_that_answers_says_how(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pacs = authority.issue("pacs")
    server = server_context(pacs.certificate, pacs.key, None)
    with scripted_peer(server_tls=server, tls=Tls(authority.certificate)) as (peer, _):
        (found,) = _found(peer)
    assert found.verdict == "ok"
    assert found.sentence.endswith("answers C-ECHO over TLS")


def test_a_peer_that_is_down_is_a_fault_where_a_route_needs_it_and_else_a_note() -> None:
    peer = Peer("pacs", AETitle("PACS"), "127.0.0.1", free_port(), 1.0)
    assert [found.verdict for found in _found(peer)] == ["FAULT"]
    assert [found.verdict for found in _found(peer, needed=False)] == ["note"]


def test_a_peer_that_is_to_commit_and_does_not_is_noted() -> None:
    classes = [(MRImageStorage, BOTH), (StorageCommitmentPushModel, BOTH)]
    with scripted_peer(accepts=classes) as (peer, _):
        found = _found(replace(peer, commitment=True))
    said = f"{peer.address} accepts Storage Commitment"
    assert found[1] == Finding("ok", f"peer {peer.name}", said)
    with scripted_peer() as (peer, _):
        found = _found(replace(peer, commitment=True))
    assert found[1].verdict == "note"
    assert "until then it is asked whether it holds each result" in found[1].sentence


def test_both_ways_to_speak_to_a_peer_are_tried_and_a_password_in_the_clear_is_noted() -> None:
    with scripted_web(lambda uid: (200, [], {})) as (url, _), scripted_peer() as (peer, _):
        found = _found(replace(peer, web=Web(url, "segnode", "hidden")))
    assert [one.verdict for one in found] == ["ok", "note", "ok"]
    assert "go there in the clear; use https" in found[1].sentence
    assert "hidden" not in str(found)
