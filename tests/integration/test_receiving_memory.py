"""An Association that is over is gone at once: no memory waits for Python's collector."""

import gc
import os
import socket
import socketserver
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom.uid import MRImageStorage

from node.dicom.inbox import Inbox
from node.dicom.receiver.process import application_entity, surroundings
from node.dicom.receiver.reports import Reports
from node.dicom.receiver.server import ReceivingServer
from tests.peers import eventually
from tests.receiving import ABORT, ASSOCIATE_RJ, RawPeer, associate_rq, settings, store_message
from tests.series_factory import make_series


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ReceivingServer]:
    """The receiver in this very process, with Python's collector at rest."""
    Inbox(tmp_path)
    told = settings(tmp_path, idle_seconds=0.5)
    around = surroundings(told, Reports(os.open(os.devnull, os.O_WRONLY), os.eventfd(0)))
    listener = socket.create_server(("127.0.0.1", 0))
    made = ReceivingServer(application_entity(told), listener, around)
    threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True).start()
    gc.collect()
    gc.disable()
    yield made
    gc.enable()
    socketserver.BaseServer.shutdown(made)  # pynetdicom's looks for itself in its AE
    listener.close()


def _release(peer: RawPeer) -> None:
    peer.release()


def _abort(peer: RawPeer) -> None:
    peer.abort()


def _fall_silent(peer: RawPeer) -> None:
    assert peer.receive()[0] == ABORT


def _break_the_protocol(peer: RawPeer) -> None:
    peer.send(b"\x42" * 20)
    assert peer.receive()[0] == ABORT


def _cut(peer: RawPeer) -> None:
    peer.reset()


@pytest.mark.parametrize("end", [_release, _abort, _fall_silent, _break_the_protocol, _cut])
def test_an_association_that_is_over_is_gone_without_the_collector(
    server: ReceivingServer, end: Callable[[RawPeer], None]
) -> None:
    with RawPeer(int(server.server_address[1])) as peer:
        peer.associate()
        peer.send(store_message(make_series(slices=1)[0]))
        assert peer.status() == 0x0000
        (one,) = server.active_associations
        association = weakref.ref(one)
        layer = weakref.ref(one.dul)
        del one
        end(peer)
    eventually(lambda: association() is None and layer() is None, 10, "end of both")


def test_a_peer_that_is_rejected_is_gone_without_the_collector(server: ReceivingServer) -> None:
    for _ in range(server.around.settings.max_associations_per_peer):
        server.around.limits.enter("MODALITY")
    with RawPeer(int(server.server_address[1])) as peer:
        eventually(lambda: server.active_associations, 10, "connection")
        association = weakref.ref(server.active_associations[0])
        peer.send(associate_rq([MRImageStorage]))
        assert peer.receive()[0] == ASSOCIATE_RJ
    eventually(lambda: association() is None, 10, "end of it")
