"""One Association that a peer asked us for: its place among the others, and how it ended."""

import contextlib
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final, cast

from pynetdicom import AE
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider

from node.dicom.receiver.admission import LimitedACSE
from node.dicom.receiver.messages import Messages
from node.dicom.receiver.reports import ENDED, OPENED
from node.dicom.receiver.secure import SecureConnection
from node.dicom.receiver.spool import AssociationRecord, Ending, write_end
from node.dicom.receiver.storage import Context, Sender
from node.dicom.receiver.surroundings import Surroundings
from node.dicom.receiver.upper_layer import UpperLayer

_END_SECONDS: Final = 5.0  # for the other thread; then the collector has to look


class ReceivingAssociation(Association):
    """An Association that a peer asked us for."""

    def __init__(self, ae: AE, around: Surroundings) -> None:
        super().__init__(ae, MODE_ACCEPTOR)
        self._around = around
        self.acse = LimitedACSE(self)
        _let_go(self.dul)  # pynetdicom's own, which has not begun
        self.layer = UpperLayer(self, around.settings.max_pdu_bytes)
        self.dul: DULServiceProvider = self.layer
        self.layer.messages = Messages(
            self.layer, around.spool, around.reports, around.seldom, self._first_sender
        )
        self.acse_timeout = around.settings.associate_seconds
        self.network_timeout = around.settings.idle_seconds
        self._entered: str | None = None
        self._begun: AssociationRecord | None = None
        self._told = self._went_silent = False
        self._contexts: Mapping[int, Context] = {}
        self._secured: Mapping[str, str | None] = {}
        self._settled = threading.Lock()

    @property
    def calling_ae_title(self) -> str:
        """As the peer calls itself."""
        return str(self.requestor.ae_title).strip()

    @property
    def contexts(self) -> Mapping[int, Context]:
        """The accepted presentation contexts by id."""
        return self._contexts

    @property
    def must_be_secure(self) -> bool:
        """Whether the peer may come by TLS only, and does not."""
        is_wanted = self.calling_ae_title in self._around.settings.tls_only
        return is_wanted and self._connection is None

    @property
    def _connection(self) -> SecureConnection | None:
        """What it comes over; None for one in the clear."""
        transport = self.dul.socket
        connection = transport.socket if transport is not None else None
        return connection if isinstance(connection, SecureConnection) else None

    def enter(self) -> str | None:
        """Takes a place among the Associations; or says why there is none."""
        self._around.limits.disconnected(self)
        title = str(cast(Any, self.requestor.primitive).calling_ae_title).strip()
        self.requestor.ae_title = title
        if (reason := self._around.limits.enter(title)) is None:
            self._entered = title
        return reason

    def begin(self) -> None:
        """It is accepted; called before the peer knows, which may send at once."""
        name = f"{self._around.run}.{next(self._around.numbers)}"
        title = self.calling_ae_title
        address = cast(Any, self.requestor.address_info).address
        self._contexts = {
            number: Context(str(one.abstract_syntax), str(one.transfer_syntax[0]))
            for number, one in self._accepted_cx.items()
        }
        settings = self._around.settings
        self.sender = Sender(
            name, title, title not in settings.echo_only, title in settings.commits_to
        )
        self._secured = {} if self._connection is None else {"tls": self._connection.version()}
        self._begun = AssociationRecord(name, title, address, time.time())

    def run_reactor(self) -> None:
        try:
            super().run_reactor()
        finally:
            self.settle()
            self._take_apart()

    def settle(self) -> None:
        """It is over: gives its place back and says how it ended. Safe to be called again."""
        self._around.limits.disconnected(self)
        with self._settled:
            title, self._entered = self._entered, None
            begun, self._begun = self._begun, None
        if title is not None:
            self._around.limits.leave(title)
        if begun is not None:
            self._say_how_it_ended(begun)

    def _abort_blocking(self, block: bool = True) -> None:
        """What each of pynetdicom's aborts comes to: for silence, and for a stop."""
        self._went_silent = self._went_silent or self.layer.idle_timer_expired()
        super()._abort_blocking(block)

    def _take_apart(self) -> None:
        """What pynetdicom's objects hold of each other; else they wait for Python's collector."""
        self.layer.join(_END_SECONDS)
        if self.layer.is_alive():
            return
        self._handlers = {}
        vars(self).pop("abort", None)  # pynetdicom puts a method of ours there
        for part in (self.acse, self.dimse, self.layer.socket):
            _forget(part, "_assoc")
        for user in (self.requestor, self.acceptor):
            _forget(user, "assoc")
        self.layer.messages.forget()
        _let_go(self.layer)

    def _first_sender(self) -> Sender:
        """Who sends. The node must know of the Association before the first Instance is safe."""
        if not self._told and self._begun is not None:
            self._told = True
            self._around.reports.tell(OPENED, **asdict(self._begun))
        return self.sender

    def tell_protocol_error(self, reason: str) -> None:
        self._warn("association aborted: the peer breaks the protocol", reason)

    def tell_rejection(self, reason: str) -> None:
        self._warn("association rejected for the time being", reason)

    def tell_insecure(self) -> None:
        reason = "its peer has tls = true; it has to come over the TLS port"
        self._warn("association rejected", reason)

    def tell_stranger(self) -> None:
        settings, called = self._around.settings, self._called_ae_title()
        if settings.check_called_ae_title and called != settings.ae_title.strip():
            reason = f'it calls "{called}", not dicom.ae_title = "{settings.ae_title}"'
        else:
            reason = "its AE title is not of a peer in dicom.accept_from"
        self._warn("association rejected", reason)

    def _called_ae_title(self) -> str:
        request = cast(Any, self.requestor.primitive)
        return str(getattr(request, "called_ae_title", "")).strip()

    def _warn(self, event: str, reason: str) -> None:
        address = cast(Any, self.requestor.address_info).address
        if self._around.seldom.may_say(event, address):
            self._around.reports.warning(
                event, calling_ae_title=self.calling_ae_title, address=address, reason=reason
            )

    def _say_how_it_ended(self, begun: AssociationRecord) -> None:
        ending = self._ending()
        reports, spool = self._around.reports, self._around.spool
        if self._told:
            with contextlib.suppress(OSError):  # a full disk: the reader waits as after a crash
                write_end(spool.incoming, spool.clock, begun, ending)
            reports.tell(ENDED, association=begun.association)
            reports.wake()
        tell = reports.info if ending == "released" else reports.warning
        tell(
            f"association {ending}",
            calling_ae_title=begun.calling_ae_title,
            association=begun.association,
            instances=self.layer.messages.stored,
            refused=self.layer.messages.refused,
            seconds=round(time.time() - begun.began_at, 3),
            **self._secured,
        )

    def _ending(self) -> Ending:
        if self.is_released:
            return "released" if self.layer.messages.are_all_kept else "incomplete"
        ours = self.layer.cause is None and self._sent_abort
        if ours and self._went_silent and self.layer.messages.are_all_kept:
            return "idle"
        return "aborted" if ours or self.layer.cause == "aborted" else "lost"


def _let_go(layer: DULServiceProvider) -> None:
    _forget(layer.state_machine, "dul")
    for name in ("_assoc", "_association", "socket"):
        _forget(layer, name)


def _forget(holder: object, name: str) -> None:
    if hasattr(holder, name):
        setattr(holder, name, None)
