"""The receiving process: `python -m node.dicom.receiver`, started by the supervisor.

It inherits the listening sockets, a pipe for what it reports, and standard input, whose end means
that the node stops or is gone: an orphan would keep the port and write into the next node's folder.
"""

import contextlib
import os
import socket
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from typing import Final

from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, _config
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # built at import

from node.core.commitment import SOP_CLASS as STORAGE_COMMITMENT
from node.core.disk import keep_from_others
from node.dicom.receiver.arrival import Spool
from node.dicom.receiver.aside import Aside
from node.dicom.receiver.limits import Limits
from node.dicom.receiver.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from node.dicom.receiver.reports import READY, Reports
from node.dicom.receiver.secure import Certificates
from node.dicom.receiver.server import ReceivingServer
from node.dicom.receiver.settings import NOTHING, Settings
from node.dicom.receiver.space import FreeSpace
from node.dicom.receiver.spool import Clock
from node.dicom.receiver.surroundings import Surroundings

_STOP_SECONDS: Final = 1.5
_UNCOMPRESSED: Final = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]


def main(arguments: list[str]) -> None:
    """Serves until standard input ends. arguments: descriptors and the settings as JSON.

    The first two descriptors listen, for plain connections and for TLS; NOTHING where one does not.
    """
    *listeners, lines, wakeup = (int(one) for one in arguments[:4])
    settings = Settings.from_json(arguments[4])
    keep_from_others()
    _config.LOG_HANDLER_LEVEL = "none"  # its handlers format every PDU
    warnings.simplefilter("ignore", UserWarning)  # of pydicom, with each odd value it reads
    reports = Reports(lines, wakeup)
    around = surroundings(settings, reports)
    servers = _servers(listeners, settings, around)
    for work in (*(one.serve_forever for one in servers), around.spool.space.watch):
        threading.Thread(target=work, daemon=True).start()
    around.spool.space.look()
    reports.tell(READY, run=around.run, pid=os.getpid())
    while os.read(sys.stdin.fileno(), 1):
        pass
    _stop(servers)


def _servers(
    listeners: Sequence[int], settings: Settings, around: Surroundings
) -> list[ReceivingServer]:
    plain, by_tls = listeners
    ae = application_entity(settings)
    servers = []
    if plain != NOTHING:
        servers.append(ReceivingServer(ae, socket.socket(fileno=plain), around))
    if by_tls != NOTHING and settings.tls is not None:
        certificates = Certificates(settings.tls)
        servers.append(ReceivingServer(ae, socket.socket(fileno=by_tls), around, certificates))
    return servers


def surroundings(settings: Settings, reports: Reports) -> Surroundings:
    """What the Associations of one process share."""
    space = FreeSpace(settings.incoming, settings.min_free_bytes, settings.low_free_bytes, reports)
    clock = Clock(settings.incoming)
    aside = Aside(settings.aside, settings.max_aside_bytes, clock, reports)
    spool = Spool(settings.incoming, aside, clock, space, settings.max_instance_bytes)
    limits = Limits(settings.max_associations, settings.max_associations_per_peer)
    run = f"{time.time_ns():x}.{os.getpid():x}"
    return Surroundings(settings, spool, reports, limits, run)


def application_entity(settings: Settings) -> AE:
    """Ours, as pynetdicom negotiates for it."""
    ae = AE(ae_title=settings.ae_title)
    ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    ae.maximum_pdu_size = settings.max_pdu_bytes
    ae.add_supported_context(Verification)
    # Either side may be its SCP: a Peer of what we sent, we of what came (PS3.4 J.3).
    ae.add_supported_context(STORAGE_COMMITMENT, _UNCOMPRESSED, scu_role=True, scp_role=True)
    for sop_class in settings.sop_classes:
        ae.add_supported_context(sop_class, list(settings.transfer_syntaxes))
    if settings.accept_from is not None:
        ae.require_calling_aet = list(settings.accept_from)
    ae.require_called_aet = settings.check_called_ae_title
    ae.maximum_associations = 1_000_000  # ours are counted in Limits, without the silent ones
    return ae


def _stop(servers: Sequence[ReceivingServer]) -> None:
    """Aborts what is associated and says how it ended; does not wait for silent peers."""
    ending = threading.Thread(target=_abort_all, args=(servers,), daemon=True)
    ending.start()
    ending.join(_STOP_SECONDS)
    os._exit(0)


def _abort_all(servers: Sequence[ReceivingServer]) -> None:
    associations = [one for server in servers for one in server.active_associations]
    for one in associations:
        with contextlib.suppress(Exception):  # one that ends by itself; the others wait
            one.abort(block=False)
    for one in associations:
        one.join()
