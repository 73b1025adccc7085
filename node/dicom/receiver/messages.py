"""P-DATA to requests of storage and its commitment (PS3.7 6.3.1, PS3.8 Annex E).

They are received here, fragment by fragment; every other message is handed to pynetdicom.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from node.dicom.receiver.arrival import Spool
from node.dicom.receiver.command import (
    NormalizedRequest,
    StoreRequest,
    normalized_request,
    store_request,
)
from node.dicom.receiver.commitment import CommitmentMessage
from node.dicom.receiver.limits import Seldom
from node.dicom.receiver.pdu import PDU, PDV, pdvs
from node.dicom.receiver.reports import Reports
from node.dicom.receiver.status import CANNOT_UNDERSTAND, SUCCESS, ProtocolError
from node.dicom.receiver.storage import Context, Sender, StoreMessage

_COMMAND_LIMIT: Final = 16 * 1024  # a command set has a few hundred bytes
_OTHER_LIMIT: Final = 1 << 20  # data sets of messages that are none of ours
_MOST_UNREADABLE: Final = 1000  # in a row, over one Association


class Peer(Protocol):
    """The Association as its messages need it."""

    def contexts(self) -> Mapping[int, Context]: ...
    def answer(self, context_id: int, command: bytes) -> None: ...
    def hand_on(self, fragment: PDV) -> bool: ...
    def sender(self) -> Sender: ...


class Messages:
    """The messages of one Association, on one thread."""

    def __init__(
        self,
        peer: Peer,
        spool: Spool,
        reports: Reports,
        seldom: Seldom,
        sender: Callable[[], Sender],
    ) -> None:
        self._peer, self._spool, self._sender_of_an_instance = peer, spool, sender
        self._reports, self._seldom = reports, seldom
        self._numbers = itertools.count()
        self.stored = 0  # acknowledged Instances
        self.refused = 0
        self._unreadable = 0  # since the last that was not
        self._is_cut_off = False
        self._command = bytearray()
        self._context_id: int | None = None  # of the message at hand
        self._message: StoreMessage | CommitmentMessage | None = None
        self._handed_on: int | None = None  # bytes of a message that pynetdicom gets

    def take(self, pdu: PDU) -> None:
        """Works off a P-DATA-TF. Raises ProtocolError."""
        fragments: list[memoryview] = []
        for pdv in pdvs(pdu):
            self._require_in_order(pdv)
            if self._handed_on is not None:
                self._hand_on(pdv)
            elif pdv.is_command:
                self._take_command(pdv)
            else:
                fragments.append(pdv.value)
                if pdv.is_last:
                    self._take_data(fragments)
                    self._finish()
                    fragments = []
        if fragments:
            self._take_data(fragments)

    def end(self) -> None:
        """The Association is over: what is not whole was not acknowledged."""
        self._is_cut_off = self._is_amid_a_message()
        if self._message is not None:
            self._message.drop()
            self._message = None

    def forget(self) -> None:
        """Lets go of those that hold these messages; nothing can be taken any more."""
        del self._peer, self._sender_of_an_instance

    @property
    def are_all_kept(self) -> bool:
        """Whether every Instance that the peer began to send is safe."""
        return self.refused == 0 and not self._is_cut_off and not self._is_amid_a_message()

    def _is_amid_a_message(self) -> bool:
        return self._message is not None or bool(self._command)

    def _require_in_order(self, pdv: PDV) -> None:
        """Fragments of one message come in order, and of one message at a time (PS3.8 E.2)."""
        if pdv.context_id not in self._peer.contexts():
            raise ProtocolError(f"presentation context {pdv.context_id} was not accepted")
        if self._context_id not in (None, pdv.context_id):
            raise ProtocolError("two messages are mixed")
        if self._handed_on is None and pdv.is_command == (self._message is not None):
            raise ProtocolError("a command and a data set are out of order")
        self._context_id = pdv.context_id

    def _take_command(self, pdv: PDV) -> None:
        if len(self._command) + len(pdv.value) > _COMMAND_LIMIT:
            raise ProtocolError(f"a command set of more than {_COMMAND_LIMIT} bytes")
        self._command += pdv.value
        if not pdv.is_last:
            return
        command = bytes(self._command)
        self._command.clear()
        if (request := store_request(command)) is not None:
            self._begin(pdv.context_id, request)
        elif (normalized := normalized_request(command)) is not None:
            self._begin_commitment(pdv.context_id, normalized)
        else:
            self._hand_on(PDV(pdv.context_id, True, True, memoryview(command)))

    def _hand_on(self, pdv: PDV) -> None:
        self._handed_on = (self._handed_on or 0) + len(pdv.value)
        if self._handed_on > _OTHER_LIMIT:
            raise ProtocolError(f"a message of more than {_OTHER_LIMIT} bytes that is no C-STORE")
        if self._peer.hand_on(pdv):
            self._handed_on = self._context_id = None

    def _begin(self, context_id: int, request: StoreRequest) -> None:
        context = self._peer.contexts()[context_id]
        sender = self._sender_of_an_instance()
        self._message = store = StoreMessage(
            self._spool, self._reports, self._seldom, sender, request
        )
        store.begin(context, self._next_name(sender))
        if not request.has_data_set:
            self._finish()

    def _begin_commitment(self, context_id: int, request: NormalizedRequest) -> None:
        sender = self._peer.sender()
        title = sender.calling_ae_title
        self._message = message = CommitmentMessage(
            self._spool, self._reports, self._seldom, request, title
        )
        context = self._peer.contexts()[context_id]
        message.begin(context, self._next_name(sender), sender.may_ask)
        if not request.has_data_set:
            self._finish()

    def _next_name(self, sender: Sender) -> str:
        return f"{sender.name}-{next(self._numbers):08d}"

    def _take_data(self, fragments: Sequence[memoryview]) -> None:
        assert self._message is not None  # _require_in_order
        self._message.add(fragments)

    def _finish(self) -> None:
        assert self._message is not None
        assert self._context_id is not None
        message, context_id = self._message, self._context_id
        self._message = self._context_id = None
        status, comment = message.finish()
        if message.is_instance:
            self._count(status)
        self._peer.answer(context_id, message.response(status, comment))
        if status == SUCCESS:
            self._reports.wake()
        if message.is_instance:
            self._require_readable(status)

    def _count(self, status: int) -> None:
        if status == SUCCESS:
            self.stored += 1
        else:
            self.refused += 1

    def _require_readable(self, status: int) -> None:
        """A sender of nothing but garbage is not served for ever; it has its answers."""
        self._unreadable = self._unreadable + 1 if status == CANNOT_UNDERSTAND else 0
        if self._unreadable >= _MOST_UNREADABLE:
            raise ProtocolError(f"{_MOST_UNREADABLE} data sets in a row that cannot be read")
