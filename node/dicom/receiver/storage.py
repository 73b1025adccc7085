"""One C-STORE request (PS3.4 B.2): who may, what may come, and what it is answered."""

from collections.abc import Sequence
from dataclasses import dataclass

from node.dicom.receiver.arrival import Arrival, Spool
from node.dicom.receiver.command import StoreRequest, is_uid, store_response
from node.dicom.receiver.limits import Seldom
from node.dicom.receiver.reports import Reports
from node.dicom.receiver.status import (
    CANNOT_UNDERSTAND,
    INVALID_OBJECT_INSTANCE,
    NOT_AUTHORIZED,
    SOP_CLASS_NOT_SUPPORTED,
    SUCCESS,
    Refused,
)


@dataclass(frozen=True)
class Context:
    """An accepted presentation context."""

    abstract_syntax: str
    transfer_syntax: str


@dataclass(frozen=True)
class Sender:
    """Who sends. name: of the Association, for the files of its Instances.

    may_ask: for commitment; it may store, and we know where to answer.
    """

    name: str
    calling_ae_title: str
    may_store: bool
    may_ask: bool


class StoreMessage:
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
