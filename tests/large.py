"""Instances of any size, sent without being held in memory."""

import struct

from tests.receiving import STORE, RawPeer, encoded, p_data, pdv, store_command
from tests.series_factory import make_series

_PDU = 128 * 1024 - 6
_PIXEL_DATA = struct.pack("<HH2sH", 0x7FE0, 0x0010, b"OW", 0)


def send_large(port: int, name: str, size: int) -> int:
    """One MR Instance with `size` bytes of pixel data over one Association; returns its status."""
    instance = make_series(slices=1, name=name)[0]
    raw = encoded(instance)
    head = raw[: raw.index(_PIXEL_DATA)] + _PIXEL_DATA + struct.pack("<L", size)
    command = store_command(str(instance.SOPInstanceUID))
    piece = p_data(pdv(STORE, bytes(_PDU), command=False, last=False))
    with RawPeer(port) as peer:
        peer.socket.settimeout(300)
        peer.associate()
        peer.send(p_data(pdv(STORE, command, command=True, last=True)))
        peer.send(p_data(pdv(STORE, head, command=False, last=False)))
        for _ in range(size // _PDU):
            peer.send(piece)
        peer.send(p_data(pdv(STORE, bytes(size % _PDU), command=False, last=True)))
        status = peer.status()
        peer.release()
    return status
