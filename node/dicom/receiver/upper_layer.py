"""pynetdicom's DUL service provider, without its polling and its small reads.

The state machine, A-ASSOCIATE, A-RELEASE and A-ABORT stay pynetdicom's. What comes from the socket
is framed and bounded here; P-DATA in Sta6 goes to our Messages, everything else to the state
machine as its next event. While data flow, the Association's own thread is paused by pynetdicom's
own checkpoint, and this one sleeps in poll() until the socket or another thread wakes it.
"""

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from pynetdicom.dul import DULServiceProvider
from pynetdicom.fsm import InvalidEventError
from pynetdicom.pdu_primitives import P_DATA

from node.dicom.receiver.messages import Messages
from node.dicom.receiver.pdu import P_DATA_TF, PDU, PDV, PDUStream, p_data
from node.dicom.receiver.secure import read_now
from node.dicom.receiver.status import ProtocolError
from node.dicom.receiver.storage import Context, Sender

if TYPE_CHECKING:
    from node.dicom.receiver.association import ReceivingAssociation

_ESTABLISHED: Final = "Sta6"
_CLOSING: Final = "Sta13"
_TICK_SECONDS: Final = 0.1  # how soon timers are looked at outside of Sta6
_DROPPED_SECONDS: Final = 0.5  # for how long a peer may go on after our last PDU
_LINGER_SECONDS: Final = 0.02  # for the peer to take our last PDU and close first
_PROTOCOL_ERROR: Final = "Evt19"
_CONNECTION_CLOSED: Final = "Evt17"
_ABORT_CAME: Final = "Evt16"


class UpperLayer(DULServiceProvider):
    """The DUL of one accepted connection. cause: why the Association ended, if it did not by us."""

    def __init__(self, assoc: "ReceivingAssociation", max_length: int) -> None:
        super().__init__(assoc)
        self.daemon = True
        self._association = assoc
        self._stream = PDUStream(max_length)
        self._wakeup = _Wakeup()
        self.messages: Messages  # set before the thread starts
        self.cause: str | None = None
        self._closing_since: float | None = None

    def send_pdu(self, primitive: Any) -> None:
        super().send_pdu(primitive)
        self.wake()

    def kill_dul(self) -> None:
        super().kill_dul()
        self.wake()

    def wake(self) -> None:
        """Ends a wait for the socket: there is something to send, or the end has come."""
        self._wakeup.give()

    def run_reactor(self) -> None:
        try:
            super().run_reactor()
        except InvalidEventError as error:  # e.g. bytes behind a request that is being rejected
            self._hang_up(str(error))
        finally:
            self.messages.end()
            self._stream.close()
            self._resume()
            if self._association.requestor.primitive is None:
                nothing: Any = None  # ends the other thread's wait for an A-ASSOCIATE
                self.to_user_queue.put(nothing)
            self._wakeup.close()

    def _hang_up(self, reason: str) -> None:
        self.cause = "aborted"
        self._association.tell_protocol_error(reason)
        self._association._kill = self._kill_thread = True
        if self.socket is not None:
            self.socket.close()

    def contexts(self) -> Mapping[int, Context]:
        return self._association.contexts

    def sender(self) -> Sender:
        return self._association.sender

    def answer(self, context_id: int, command: bytes) -> None:
        """Sends a response at once; only this thread sends."""
        assert self.socket is not None
        most = self._association.requestor.maximum_length or 0
        self.socket.send(p_data(context_id, command, most))

    def hand_on(self, fragment: PDV) -> bool:
        """A fragment of a message that pynetdicom serves; returns whether the message is whole."""
        control = fragment.is_command | fragment.is_last << 1
        primitive: Any = P_DATA()
        value = bytes([control]) + bytes(fragment.value)
        primitive.presentation_data_value_list = [[fragment.context_id, value]]
        dimse = self._association.dimse
        try:
            dimse.receive_primitive(primitive)
        except Exception as error:  # pynetdicom's parser and hostile bytes: almost anything
            raise ProtocolError(f"a message cannot be decoded: {error!r}") from error
        self._resume()
        return dimse.message is None

    def _is_transport_event(self) -> bool:
        """Works off the socket until there is an event for the state machine, or a wake-up.

        Returns False always: the idle timer is restarted here, by whole PDUs only, so that
        a PDU that never ends is silence, too.
        """
        if self.state_machine.current_state == _CLOSING:
            self._close_gently()
            return False
        try:
            while not self._has_other_work():
                pdu = self._stream.next()
                if pdu is not None:
                    self._take(pdu)
                elif not self._receive():
                    break
        except ProtocolError as error:
            self.cause = "aborted"
            self._association.tell_protocol_error(str(error))
            self._put(_PROTOCOL_ERROR)
        return False

    def _has_other_work(self) -> bool:
        return (
            self._kill_thread or not self.event_queue.empty() or not self.to_provider_queue.empty()
        )

    def _take(self, pdu: PDU) -> None:
        self._idle_timer.restart()
        if pdu.type == P_DATA_TF and self.state_machine.current_state == _ESTABLISHED:
            self.messages.take(pdu)
            return
        try:
            decoded, event = self._decode_pdu(bytearray(pdu.raw))
        except Exception as error:  # pynetdicom's parser and hostile bytes: almost anything
            raise ProtocolError(f"a PDU cannot be decoded: {error!r}") from error
        self._recv_pdu.put(decoded)
        if event == _ABORT_CAME:
            self.cause = "aborted"
        self._put(event)

    def _put(self, event: str) -> None:
        self.event_queue.put(event)
        self._resume()

    def _receive(self) -> bool:
        """Waits for bytes; False where there is something else to do first."""
        connection = self._connection()
        if connection is None:
            return self._lost()
        established = self.state_machine.current_state == _ESTABLISHED
        if established and not self._idle_timer.expired:
            self._pause_the_other_thread()
        try:
            return self._stream.receive(partial(read_now, connection)) > 0 or self._lost()
        except (BlockingIOError, InterruptedError):
            return self._wait(connection, established)
        except OSError:
            return self._lost()

    def _wait(self, connection: socket.socket, established: bool) -> bool:
        """Whether bytes came before a wake-up, or the next look at the timers."""
        seconds = _TICK_SECONDS
        if established:
            seconds = max(self._idle_timer.remaining, 0.0) + 0.01
            if self._idle_timer.expired:
                self._resume()
                seconds = _TICK_SECONDS
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        poll.register(self._wakeup.descriptor, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll(seconds * 1000)}
        if self._wakeup.descriptor in ready:
            self._wakeup.take()
            return False
        return bool(ready)

    def _lost(self) -> bool:
        self.cause = self.cause or "lost"
        self._put(_CONNECTION_CLOSED)
        return False

    def _pause_the_other_thread(self) -> None:
        """Stops the Association's thread from polling, unless something waits for it."""
        if self._association.dimse.msg_queue.empty() and self.to_user_queue.empty():
            self._association._reactor_checkpoint.clear()

    def _resume(self) -> None:
        self._association._reactor_checkpoint.set()

    def _close_gently(self) -> None:
        """Sta13: drops what still comes; closes when the peer has, or says no more (AA-6)."""
        assert self.socket is not None
        connection = self._connection()
        if connection is None:
            self._put(_CONNECTION_CLOSED)
            return
        self._closing_since = self._closing_since or time.monotonic()
        if time.monotonic() < self._closing_since + _DROPPED_SECONDS:
            with contextlib.suppress(OSError):
                if self._has_bytes(connection) and connection.recv(65536):
                    return
        self.socket.close()

    def _has_bytes(self, connection: socket.socket) -> bool:
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        return bool(poll.poll(_LINGER_SECONDS * 1000))

    def _connection(self) -> socket.socket | None:
        return self.socket.socket if self.socket is not None else None


class _Wakeup:
    """Ends a poll() from another thread. Once closed it writes no more: its number is reused."""

    def __init__(self) -> None:
        self.descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.Lock()
        self._is_closed = False

    def give(self) -> None:
        with self._lock, contextlib.suppress(BlockingIOError):
            if not self._is_closed:
                os.eventfd_write(self.descriptor, 1)

    def take(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.descriptor)

    def close(self) -> None:
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                os.close(self.descriptor)
