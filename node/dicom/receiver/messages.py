"""P-DATA to requests of storage and its commitment (PS3.7 6.3.1, PS3.8 Annex E).

They are received here, fragment by fragment; every other message is handed to pynetdicom.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from node.core.commitment import SOP_CLASS as STORAGE_COMMITMENT
from node.dicom.receiver.arrival import Arrival, Spool
from node.dicom.receiver.command import (
    NormalizedRequest,
    StoreRequest,
    is_uid,
    normalized_request,
    store_request,
    store_response,
)
from node.dicom.receiver.commitment import CommitmentMessage
from node.dicom.receiver.limits import Seldom
from node.dicom.receiver.pdu import PDU, PDV, pdvs
from node.dicom.receiver.reports import Reports
from node.dicom.receiver.status import (
    CANNOT_UNDERSTAND,
    INVALID_OBJECT_INSTANCE,
    NOT_AUTHORIZED,
    SOP_CLASS_NOT_SUPPORTED,
    SUCCESS,
    ProtocolError,
    Refused,
)

_COMMAND_LIMIT: Final = 16 * 1024  # a command set has a few hundred bytes
_OTHER_LIMIT: Final = 1 << 20  # data sets of messages that are none of ours
_MOST_UNREADABLE: Final = 1000  # in a row, over one Association


@dataclass(frozen=True)
class Context:
    """An accepted presentation context."""

    abstract_syntax: str
    transfer_syntax: str


class Peer(Protocol):
    """The Association as its messages need it."""

    def contexts(self) -> Mapping[int, Context]: ...
    def answer(self, context_id: int, command: bytes) -> None: ...
    def hand_on(self, fragment: PDV) -> bool: ...
    def sender(self) -> "Sender": ...


@dataclass(frozen=True)
class Sender:
    """Who sends. name: of the Association, for the files of its Instances.

    may_ask: for commitment; it may store, and we know where to answer.
    """

    name: str
    calling_ae_title: str
    may_store: bool
    may_ask: bool


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
        self._store: _Store | CommitmentMessage | None = None
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
        if self._store is not None:
            self._store.drop()
            self._store = None

    def forget(self) -> None:
        """Lets go of those that hold these messages; nothing can be taken any more."""
        del self._peer, self._sender_of_an_instance

    @property
    def are_all_kept(self) -> bool:
        """Whether every Instance that the peer began to send is safe."""
        return self.refused == 0 and not self._is_cut_off and not self._is_amid_a_message()

    def _is_amid_a_message(self) -> bool:
        return self._store is not None or bool(self._command)

    def _require_in_order(self, pdv: PDV) -> None:
        """Fragments of one message come in order, and of one message at a time (PS3.8 E.2)."""
        if pdv.context_id not in self._peer.contexts():
            raise ProtocolError(f"presentation context {pdv.context_id} was not accepted")
        if self._context_id not in (None, pdv.context_id):
            raise ProtocolError("two messages are mixed")
        if self._handed_on is None and pdv.is_command == (self._store is not None):
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
        elif (of_commitment := self._of_commitment(pdv.context_id, command)) is not None:
            self._begin_commitment(pdv.context_id, of_commitment)
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
        self._store = store = _Store(self._spool, self._reports, self._seldom, sender, request)
        store.begin(context, self._next_name(sender))
        if not request.has_data_set:
            self._finish()

    def _of_commitment(self, context_id: int, command: bytes) -> NormalizedRequest | None:
        is_its = self._peer.contexts()[context_id].abstract_syntax == STORAGE_COMMITMENT
        return normalized_request(command) if is_its else None

    def _begin_commitment(self, context_id: int, request: NormalizedRequest) -> None:
        sender = self._peer.sender()
        title = sender.calling_ae_title
        self._store = message = CommitmentMessage(
            self._spool, self._reports, self._seldom, request, title
        )
        syntax = self._peer.contexts()[context_id].transfer_syntax
        message.begin(syntax, self._next_name(sender), sender.may_ask)
        if not request.has_data_set:
            self._finish()

    def _next_name(self, sender: Sender) -> str:
        return f"{sender.name}-{next(self._numbers):08d}"

    def _take_data(self, fragments: Sequence[memoryview]) -> None:
        assert self._store is not None  # _require_in_order
        self._store.add(fragments)

    def _finish(self) -> None:
        assert self._store is not None
        assert self._context_id is not None
        store, context_id = self._store, self._context_id
        self._store = self._context_id = None
        status, comment = store.finish()
        if store.is_instance:
            self._count(status)
        self._peer.answer(context_id, store.response(status, comment))
        if status == SUCCESS:
            self._reports.wake()
        if store.is_instance:
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


class _Store:
    """One C-STORE. A refusal is remembered, and the rest of the fragments is dropped."""

    is_instance = True

    def __init__(
        self,
        spool: Spool,
        reports: Reports,
        seldom: Seldom,
        sender: Sender,
        request: StoreRequest,
    ) -> None:
        self._spool, self._sender = spool, sender
        self._reports, self._seldom = reports, seldom
        self.request = request
        self._arrival: Arrival | None = None
        self._refused: Refused | None = None

    def begin(self, context: Context, name: str) -> None:
        try:
            self._admit(context)
            self._arrival = Arrival(
                self._spool,
                name,
                self.request,
                context.transfer_syntax,
                self._sender.calling_ae_title,
            )
        except Refused as refused:
            self._refuse(refused)

    def add(self, fragments: Sequence[memoryview]) -> None:
        if self._arrival is None:
            return
        try:
            self._arrival.add(fragments)
        except Refused as refused:
            self._refuse(refused)

    def finish(self) -> tuple[int, str]:
        """Status and error comment; 0x0000 only when the Instance is safe."""
        if self._arrival is not None:
            try:
                self._arrival.finish()
            except Refused as refused:
                self._refuse(refused)
            except BaseException:  # nobody else knows of it any more
                self.drop()
                raise
        if self._refused is not None:
            return self._refused.status, self._refused.reason
        return SUCCESS, ""

    def drop(self) -> None:
        if self._arrival is not None:
            self._arrival.drop()
            self._arrival = None

    def response(self, status: int, comment: str) -> bytes:
        return store_response(self.request, status, comment)

    def _admit(self, context: Context) -> None:
        if not self._sender.may_store:
            raise Refused(NOT_AUTHORIZED, f"{self._sender.calling_ae_title} may not store here")
        if self.request.sop_class_uid != context.abstract_syntax:
            raise Refused(SOP_CLASS_NOT_SUPPORTED, "the context is of another SOP Class")
        if not is_uid(self.request.sop_instance_uid):
            raise Refused(INVALID_OBJECT_INSTANCE, "Affected SOP Instance UID is not a UID")

    def _refuse(self, refused: Refused) -> None:
        self._refused = refused
        kept = None
        if refused.status == CANNOT_UNDERSTAND and self._arrival is not None:
            kept = self._arrival.set_aside(refused.reason)
        self.drop()
        self._tell(refused, kept)

    def _tell(self, refused: Refused, kept_aside: str | None) -> None:
        """Once in a while for each status; the end of the Association tells how many there were."""
        status, title = f"0x{refused.status:04X}", self._sender.calling_ae_title
        if self._seldom.may_say(f"refused {status}", title):
            self._reports.warning(
                "instance refused",
                calling_ae_title=title,
                sop_instance_uid=self.request.sop_instance_uid[:64],
                status=status,
                reason=refused.reason,
                kept_aside=kept_aside,
            )
