"""What a peer is answered (PS3.4 B.2.3, PS3.7 Annex C), and the refusal that carries it."""

from typing import Final

SUCCESS: Final = 0x0000
PROCESSING_FAILURE: Final = 0x0110  # PS3.7 C.5.7
INVALID_OBJECT_INSTANCE: Final = 0x0117  # PS3.7 C.5.6
SOP_CLASS_NOT_SUPPORTED: Final = 0x0122
NOT_AUTHORIZED: Final = 0x0124
# Of Storage Commitment (PS3.7 10.1.1.1.8, 10.1.4.1.10)
NO_SUCH_OBJECT_INSTANCE: Final = 0x0112
NO_SUCH_EVENT_TYPE: Final = 0x0113
NO_SUCH_ARGUMENT: Final = 0x0114
INVALID_ARGUMENT: Final = 0x0115
NO_SUCH_SOP_CLASS: Final = 0x0118
NO_SUCH_ACTION: Final = 0x0123
RESOURCE_LIMITATION: Final = 0x0213
# Of storage
OUT_OF_RESOURCES: Final = 0xA700
DATA_SET_DOES_NOT_MATCH: Final = 0xA900
CANNOT_UNDERSTAND: Final = 0xC000


class Refused(Exception):
    """A message that is not kept. The message goes to the log, and, short, to the sender."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class ProtocolError(Exception):
    """The peer breaks the protocol: the Association is aborted (PS3.8 9.2, Evt19)."""
