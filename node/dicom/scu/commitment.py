"""Storage Commitment, Push Model (PS3.4 J): asked of a Peer, and reported to one that asked us."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

from pydicom import Dataset
from pynetdicom import build_role, evt
from pynetdicom.association import Association
from pynetdicom.events import Event
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # built at import
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
)

from node.core.errors import Fatal, Temporary
from node.core.names import AETitle, SOPInstanceUID
from node.core.text import clean
from node.dicom.scu.answers import in_hexadecimal, reason_in_words
from node.dicom.scu.association import NotAccepted, associated
from node.dicom.scu.peer import Peer

_REQUEST: Final = 1  # Action Type (PS3.4 J.3.2.1)
_ALL_COMMITTED: Final = 1  # Event Types (PS3.4 J.3.3.1)
_SOME_FAILED: Final = 2
_SUCCESS: Final = 0x0000
_DUPLICATE_TRANSACTION: Final = 0x0131
_PROCESSING_FAILURE: Final = 0x0110
_RESOURCE_LIMITATION: Final = 0x0213
_FOR_LATER: Final = frozenset({_PROCESSING_FAILURE, _RESOURCE_LIMITATION})
_MOST_OBJECTS: Final = 100_000  # of one report
_LOOK_SECONDS: Final = 0.05


class NotSupported(Fatal):
    """The Peer does no Storage Commitment, or not for us: look with `holds` instead."""


class Referenced(Protocol):
    """An object by name."""

    @property
    def sop_class_uid(self) -> str: ...
    @property
    def sop_instance_uid(self) -> str: ...


@dataclass(frozen=True)
class Report:
    """What a Peer commits to of one transaction. failed: why not, in words."""

    transaction_uid: str
    committed: frozenset[SOPInstanceUID]
    failed: Mapping[SOPInstanceUID, str]


def ask(
    peer: Peer,
    calling_ae_title: AETitle,
    transaction_uid: str,
    objects: Sequence[Referenced],
    wait_seconds: float,
) -> Report | None:
    """N-ACTION; then waits on the same Association for the report (PS3.4 J.3).

    None: it took the request, and its report will come later, on an Association to us. Raises
    NotSupported where it refuses, Temporary or Fatal where it cannot be asked.
    """
    reports = _Reports(peer, transaction_uid)
    handlers = [(evt.EVT_N_EVENT_REPORT, reports.take)]
    with _supported(peer, calling_ae_title, handlers) as association:
        _request(peer, association, transaction_uid, objects)
        return reports.wait(association, wait_seconds)


def require_supported(peer: Peer, calling_ae_title: AETitle) -> None:
    """Whether it could be asked. Raises NotSupported, Temporary, Fatal where not."""
    with _supported(peer, calling_ae_title, ()):
        pass


def report_of(information: Dataset) -> Report:
    """What an N-EVENT-REPORT says (PS3.4 J.3.3.1). Raises ValueError where it says nothing."""
    transaction_uid = str(information.get("TransactionUID") or "")
    if not transaction_uid:
        raise ValueError("a commitment report without a Transaction UID")
    failed = {
        _instance(item): reason_in_words(_reason(item))
        for item in _items(information, "FailedSOPSequence")
    }
    committed = {_instance(item) for item in _items(information, "ReferencedSOPSequence")}
    return Report(transaction_uid, frozenset(committed - failed.keys()), failed)


def report(
    peer: Peer,
    calling_ae_title: AETitle,
    transaction_uid: str,
    committed: Sequence[Referenced],
    failed: Sequence[tuple[Referenced, int]],
) -> None:
    """N-EVENT-REPORT to a Peer that asked us, on a new Association (PS3.4 J.3.3).

    failed: with a Failure Reason each (PS3.3 C.14). Raises Temporary, Fatal.
    """
    # We ask for the Association and are the SCP on it (PS3.7 D.3.3.4).
    roles = [build_role(StorageCommitmentPushModel, scp_role=True)]
    contexts = [(StorageCommitmentPushModel, None)]
    event_type = _SOME_FAILED if failed else _ALL_COMMITTED
    information = _information(transaction_uid, committed, failed)
    with associated(peer, calling_ae_title, contexts, roles=roles) as association:
        status = _answered(
            peer,
            association.send_n_event_report,
            information,
            event_type,
            StorageCommitmentPushModel,
            StorageCommitmentPushModelInstance,
        )
    if status != _SUCCESS:
        kind = Temporary if status in _FOR_LATER else Fatal
        raise kind(f"{peer} did not take a commitment report: {in_hexadecimal(status)}")


class _Reports:
    """Takes the reports that come on an Association of ours, in pynetdicom's thread."""

    def __init__(self, peer: Peer, transaction_uid: str) -> None:
        self._peer, self._transaction_uid = peer, transaction_uid
        self._report: Report | None = None
        self._came = threading.Event()

    def take(self, event: Event) -> tuple[int, None]:
        """Answers one; of another transaction it is not taken, and may come again elsewhere."""
        try:
            found = report_of(event.event_information)
        except Exception:  # whatever a Peer's bytes may do to a decoder
            return _PROCESSING_FAILURE, None
        if found.transaction_uid != self._transaction_uid:
            return _PROCESSING_FAILURE, None
        self._report = found
        self._came.set()
        return _SUCCESS, None

    def wait(self, association: Association, seconds: float) -> Report | None:
        """Until it came, the time is over, or the Peer has released the Association."""
        deadline = time.monotonic() + seconds
        while association.is_established and time.monotonic() < deadline:
            if self._came.wait(_LOOK_SECONDS):
                time.sleep(_LOOK_SECONDS)  # for our answer to go out before the release
                break
        return self._report


@contextmanager
def _supported(
    peer: Peer, calling_ae_title: AETitle, handlers: Sequence[Any]
) -> Iterator[Association]:
    contexts = [(StorageCommitmentPushModel, None)]
    try:
        with associated(peer, calling_ae_title, contexts, handlers) as association:
            yield association
    except NotAccepted as error:
        raise NotSupported(str(error)) from error


def _request(
    peer: Peer, association: Association, transaction_uid: str, objects: Sequence[Referenced]
) -> None:
    status = _answered(
        peer,
        association.send_n_action,
        _information(transaction_uid, objects, ()),
        _REQUEST,
        StorageCommitmentPushModel,
        StorageCommitmentPushModelInstance,
    )
    if status in _FOR_LATER:
        raise Temporary(f"{peer} cannot commit now: {in_hexadecimal(status)}")
    if status not in (_SUCCESS, _DUPLICATE_TRANSACTION):  # the latter: we asked, and died
        raise NotSupported(f"{peer} refused a commitment request: {in_hexadecimal(status)}")


def _answered(peer: Peer, send: Callable[..., tuple[Dataset, Any]], *arguments: Any) -> int:
    """The status of the response. Raises Temporary where there is none."""
    try:
        status, _ = send(*arguments)
    except RuntimeError as error:
        raise Temporary(f"{peer} ended the association: {error}") from error
    if "Status" not in status:
        within = f"within {peer.timeout_seconds:g} s, or broke off"
        raise Temporary(f"{peer} did not answer {within}")
    return int(status.Status)


def _information(
    transaction_uid: str,
    objects: Sequence[Referenced],
    failed: Sequence[tuple[Referenced, int]],
) -> Dataset:
    """Action or Event Information (PS3.4 J.3.2.1, J.3.3.1)."""
    information = Dataset()
    information.TransactionUID = transaction_uid
    if objects or not failed:
        information.ReferencedSOPSequence = [_item(one) for one in objects]
    if failed:
        information.FailedSOPSequence = [_item(one) for one, _ in failed]
        for item, (_, reason) in zip(information.FailedSOPSequence, failed, strict=True):
            item.FailureReason = reason
    return information


def _item(one: Referenced) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = one.sop_class_uid
    item.ReferencedSOPInstanceUID = one.sop_instance_uid
    return item


def _items(information: Dataset, keyword: str) -> list[Dataset]:
    return list(information.get(keyword) or ())[:_MOST_OBJECTS]


def _instance(item: Dataset) -> SOPInstanceUID:
    return SOPInstanceUID(clean(str(item.get("ReferencedSOPInstanceUID") or ""))[:64])


def _reason(item: Dataset) -> int:
    reason = item.get("FailureReason")
    return reason if isinstance(reason, int) else _PROCESSING_FAILURE
