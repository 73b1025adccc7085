"""One message of Storage Commitment on its way to disk (PS3.4 J.3.2, J.3.3).

What is asked or told is written durably before it is answered; the node does what follows from it.
"""

import contextlib
import os
import time
from collections.abc import Iterable, Sequence
from io import BytesIO
from typing import Any, Final

from pydicom import Dataset
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian
from pynetdicom.dsutils import decode

from node.core.commitment import SOP_CLASS, SOP_INSTANCE, Asked, Reference, Report, require_uid
from node.core.disk import fsync_folder
from node.dicom.receiver.arrival import Spool
from node.dicom.receiver.command import N_ACTION_RQ, NormalizedRequest, normalized_response
from node.dicom.receiver.limits import Seldom
from node.dicom.receiver.reports import Reports
from node.dicom.receiver.status import (
    INVALID_ARGUMENT,
    NO_SUCH_ACTION,
    NO_SUCH_ARGUMENT,
    NO_SUCH_EVENT_TYPE,
    NO_SUCH_OBJECT_INSTANCE,
    NO_SUCH_SOP_CLASS,
    NOT_AUTHORIZED,
    OUT_OF_RESOURCES,
    PROCESSING_FAILURE,
    RESOURCE_LIMITATION,
    SUCCESS,
    Refused,
)
from node.dicom.receiver.storage import Context

MOST_BYTES: Final = 4 << 20  # of a data set: some 25,000 Instances
MOST_ITEMS: Final = 20_000
_REQUEST: Final = 1  # Action Type ID, PS3.4 J.3.2.1.1
_EVENTS: Final = (1, 2)  # all committed; failures exist. PS3.4 J.3.3.1.1


class CommitmentMessage:
    """An N-ACTION or N-EVENT-REPORT. A refusal is remembered, and what still comes is dropped."""

    is_instance = False

    def __init__(
        self,
        spool: Spool,
        reports: Reports,
        seldom: Seldom,
        request: NormalizedRequest,
        calling_ae_title: str,
    ) -> None:
        self._spool, self._reports, self._seldom, self._request = spool, reports, seldom, request
        self._calling_ae_title = calling_ae_title
        self._data = bytearray()
        self._name, self._syntax = "", ""
        self._refused: Refused | None = None

    @property
    def has_data_set(self) -> bool:
        return self._request.has_data_set

    def begin(self, context: Context, name: str, may_ask: bool) -> None:
        """name: of its file, without time and suffix. may_ask: whether the peer may N-ACTION."""
        self._syntax, self._name = context.transfer_syntax, name
        try:
            self._admit(context, may_ask)
        except Refused as refused:
            self._refused = refused

    def add(self, fragments: Sequence[memoryview]) -> None:
        if self._refused is not None:
            return
        if len(self._data) + sum(len(one) for one in fragments) > MOST_BYTES:
            self._data.clear()
            self._refused = Refused(RESOURCE_LIMITATION, f"more than {MOST_BYTES} bytes")
            return
        for one in fragments:
            self._data += one

    def finish(self) -> tuple[int, str]:
        """Status and error comment; 0x0000 only when it is safe on disk."""
        try:
            if self._refused is not None:
                raise self._refused
            self._keep()
        except Refused as refused:
            self._say(refused)
            return refused.status, refused.reason
        return SUCCESS, ""

    def drop(self) -> None:
        """The Association ended before it was whole."""

    def response(self, status: int, comment: str) -> bytes:
        return normalized_response(self._request, status, comment)

    def _admit(self, context: Context, may_ask: bool) -> None:
        request = self._request
        if {request.sop_class_uid, context.abstract_syntax} != {SOP_CLASS}:
            raise Refused(NO_SUCH_SOP_CLASS, "the SOP Class is not Storage Commitment")
        if request.sop_instance_uid != SOP_INSTANCE:
            raise Refused(NO_SUCH_OBJECT_INSTANCE, "not Storage Commitment's SOP Instance")
        if request.command_field != N_ACTION_RQ:
            if request.type_id not in _EVENTS:
                raise Refused(NO_SUCH_EVENT_TYPE, f"event type {request.type_id} is not 1 or 2")
        elif request.type_id != _REQUEST:
            raise Refused(NO_SUCH_ACTION, f"action type {request.type_id} is not 1")
        elif not may_ask:
            raise Refused(NOT_AUTHORIZED, f"{self._calling_ae_title} is no peer that may store")
        if not request.has_data_set:
            raise Refused(NO_SUCH_ARGUMENT, "there is no data set")

    def _keep(self) -> None:
        parsed = _parsed(bytes(self._data), self._syntax)
        self._data.clear()
        transaction = _uid(parsed, "TransactionUID")
        asked = _references(parsed, "ReferencedSOPSequence")
        told: Asked | Report
        if self._request.command_field == N_ACTION_RQ:
            _require_some(asked)
            told = Asked(self._calling_ae_title, transaction, time.time(), asked)
        else:
            told = _report(self._calling_ae_title, transaction, asked, parsed)
        self._write(told.to_json().encode(), "asked" if isinstance(told, Asked) else "commit")

    def _write(self, raw: bytes, suffix: str) -> None:
        incoming = self._spool.incoming
        half = incoming / f"{self._name}.part"
        try:
            self._spool.space.require()
            with half.open("xb") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
            half.rename(incoming / f"{self._spool.clock.stamp()}-{self._name}.{suffix}")
            fsync_folder(incoming)
        except OSError as error:
            with contextlib.suppress(OSError):
                half.unlink(missing_ok=True)
            reason = f"it cannot be written: {error.strerror}"
            raise Refused(PROCESSING_FAILURE, reason) from error

    def _say(self, refused: Refused) -> None:
        if refused.status == OUT_OF_RESOURCES:  # a status of C-STORE
            refused.status = RESOURCE_LIMITATION
        is_action = self._request.command_field == N_ACTION_RQ
        event = "request for commitment refused" if is_action else "report of commitment refused"
        status, title = f"0x{refused.status:04X}", self._calling_ae_title
        if self._seldom.may_say(f"{event} {status}", title):
            self._reports.warning(
                event, calling_ae_title=title, status=status, reason=refused.reason
            )


def _report(
    calling_ae_title: str, transaction: str, committed: Sequence[Reference], parsed: Dataset
) -> Report:
    """Its sequences say what became of what; the event type only whether the second is there."""
    failed = _references(parsed, "FailedSOPSequence")
    _require_some([*committed, *failed])
    lost = {one.sop_instance_uid for one in failed}
    kept = [one for one in committed if one.sop_instance_uid not in lost]
    return Report(calling_ae_title, transaction, time.time(), kept, failed)


def _require_some(references: Sequence[Reference]) -> None:
    if not references:
        raise Refused(INVALID_ARGUMENT, "it names no Instance")


def _parsed(data: bytes, syntax: str) -> Dataset:
    try:
        return decode(
            BytesIO(data), syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
        )
    except Exception as error:  # hostile bytes make the parser raise almost anything
        raise Refused(PROCESSING_FAILURE, "the data set cannot be read") from error


def _references(parsed: Dataset, keyword: str) -> list[Reference]:
    items = _value(parsed, keyword) or ()
    if not isinstance(items, Iterable) or isinstance(items, str | bytes):
        raise Refused(INVALID_ARGUMENT, f"{keyword} is not a sequence")
    found = list(items)
    if len(found) > MOST_ITEMS:
        raise Refused(RESOURCE_LIMITATION, f"more than {MOST_ITEMS} Instances at once")
    return [_reference(one, is_failed=keyword == "FailedSOPSequence") for one in found]


def _reference(item: Dataset, *, is_failed: bool) -> Reference:
    uids = _uid(item, "ReferencedSOPClassUID"), _uid(item, "ReferencedSOPInstanceUID")
    if not is_failed:
        return Reference(*uids)
    reason = _value(item, "FailureReason")
    is_one = isinstance(reason, int) and 0 <= reason <= 0xFFFF
    return Reference(*uids, reason if is_one else PROCESSING_FAILURE)


def _uid(item: Dataset, keyword: str) -> str:
    text = str(_value(item, keyword) or "")
    try:
        require_uid(text)
    except ValueError as error:
        raise Refused(INVALID_ARGUMENT, f"{keyword} is missing or not a UID") from error
    return text


def _value(item: Dataset, keyword: str) -> Any:
    try:
        return item.get(keyword)
    except Exception as error:  # hostile bytes again: values are decoded only now
        raise Refused(PROCESSING_FAILURE, f"{keyword} cannot be read") from error
