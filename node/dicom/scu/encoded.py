"""C-STORE of a data set as it lies in its file: never decoded, never whole in memory (PS3.7 9.1.1).

pynetdicom decodes and encodes again what it sends, which makes a torn file look whole. Here its
message is filled from the file, a PDU at a time.
"""

import time
from typing import Final

from pynetdicom.association import Association
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE

from node.core.errors import Fatal, Temporary
from node.dicom.scu.association import cut
from node.dicom.scu.instance import Instance
from node.dicom.scu.peer import Peer

_LARGEST_PDU: Final = 128 * 1024  # also for a Peer that takes any
_SMALLEST_PDU: Final = 128  # in less there is no room for a command
_AHEAD: Final = 16  # PDUs that wait to go out
_LOW_PRIORITY: Final = 2


def store_encoded(
    peer: Peer, association: Association, context_id: int, instance: Instance
) -> C_STORE:
    """Sends one Instance and returns the Peer's response. Raises Temporary, Fatal, OSError."""
    _pause_reactor(peer, association)
    try:
        _send(peer, association, context_id, instance)
        _, response = association.dimse.get_msg(block=True)
    finally:
        association._reactor_checkpoint.set()
    if not isinstance(response, C_STORE) or not response.is_valid_response:
        cut(association)
        within = f"within {peer.timeout_seconds:g} s, or broke off"
        raise Temporary(f"{peer} did not answer {within}")
    return response


def _pause_reactor(peer: Peer, association: Association) -> None:
    """Or pynetdicom's own thread would take the response."""
    association._reactor_checkpoint.clear()
    while not association._is_paused:
        if not association.is_alive():
            break
        time.sleep(0.0001)
    if not association.is_established:
        association._reactor_checkpoint.set()
        raise Temporary(f"{peer} ended the association")


def _send(peer: Peer, association: Association, context_id: int, instance: Instance) -> None:
    message = C_STORE_RQ()
    message.primitive_to_message(_request(instance))
    size = _pdu_size(peer, association)
    for p_data in message.encode_msg(context_id, size):
        _wait_for_room(peer, association)
        association.dul.send_pdu(p_data)
    _wait_for_room(peer, association, most=1)  # its time to answer begins when it has the rest


def _request(instance: Instance) -> C_STORE:
    request = C_STORE()
    request.MessageID = 1
    request.Priority = _LOW_PRIORITY
    request.AffectedSOPClassUID = instance.sop_class_uid
    request.AffectedSOPInstanceUID = instance.sop_instance_uid
    request._dataset_path = (instance.path, instance.begin)
    return request


def _pdu_size(peer: Peer, association: Association) -> int:
    theirs = association.dimse.maximum_pdu_size or _LARGEST_PDU  # 0: any (PS3.8 D.1)
    if theirs < _SMALLEST_PDU:
        raise Fatal(f"{peer} takes PDUs of {theirs} bytes only; let it take larger ones")
    return min(theirs, _LARGEST_PDU)


def _wait_for_room(peer: Peer, association: Association, most: int = _AHEAD) -> None:
    """Until few PDUs wait to go out. Raises Temporary where none goes out any more."""
    waiting = association.dul.to_provider_queue
    deadline = time.monotonic() + peer.timeout_seconds
    while waiting.qsize() >= most:
        if association.acse.is_aborted() or not association.dul.is_alive():
            raise Temporary(f"{peer} broke off the association")
        if time.monotonic() > deadline:
            cut(association)
            raise Temporary(f"{peer} took nothing for {peer.timeout_seconds:g} s")
        time.sleep(0.0005)
