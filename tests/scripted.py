"""A PACS that answers what the test tells it to: pynetdicom's SCP behind a real socket."""

import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.events import Event
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from node.core.names import AETitle
from node.dicom.scu.peer import Peer
from node.dicom.tls import Tls

Answer = Callable[[Event], Any]
BOTH = (ImplicitVRLittleEndian, ExplicitVRLittleEndian)


@dataclass
class Received:
    """What came: data sets as they were on the wire, by SOP Instance UID."""

    data_sets: dict[str, bytes] = field(default_factory=dict)
    associations: int = 0
    proposed: list[int] = field(default_factory=list)  # presentation contexts of each


def requested_uid(event: Event) -> str:
    """The SOP Instance UID of a C-STORE request."""
    assert isinstance(event.request, C_STORE)
    return str(event.request.AffectedSOPInstanceUID)


@contextmanager
def scripted_peer(
    answer: int | Answer = 0x0000,
    *,
    accepts: Sequence[tuple[str, Sequence[str]]] = ((MRImageStorage, BOTH),),
    calling: str | None = None,
    most: int | None = None,
    timeout_seconds: float = 5.0,
    handlers: Sequence[Any] = (),
    server_tls: ssl.SSLContext | None = None,
    tls: Tls | None = None,
    host: str = "127.0.0.1",
) -> Iterator[tuple[Peer, Received]]:
    """A Storage SCP. calling: the one AE Title it takes; most: Associations at once."""
    received = Received()

    def on_store(event: Event) -> Any:
        request = event.request
        assert isinstance(request, C_STORE)
        assert request.DataSet is not None
        received.data_sets[requested_uid(event)] = request.DataSet.getvalue()
        return answer(event) if callable(answer) else answer

    def on_requested(event: Event) -> None:
        received.associations += 1
        received.proposed.append(len(event.assoc.requestor.requested_contexts))

    ae = AE(ae_title="PACS")
    for sop_class, syntaxes in (*accepts, (Verification, BOTH)):
        ae.add_supported_context(sop_class, list(syntaxes), scu_role=True, scp_role=True)
    if calling:
        ae.require_calling_aet = [calling]
    if most:
        ae.maximum_associations = most
    server = ae.start_server(
        ("127.0.0.1", 0),
        block=False,
        ssl_context=server_tls,
        evt_handlers=[
            (evt.EVT_C_STORE, on_store),
            (evt.EVT_REQUESTED, on_requested),
            *handlers,
        ],
    )
    assert server is not None
    port = int(server.server_address[1])
    try:
        yield Peer("pacs", AETitle("PACS"), host, port, timeout_seconds, tls=tls), received
    finally:
        server.shutdown()
