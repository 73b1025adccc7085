"""The Query SCU: how many Instances of a Series a Peer holds, and which (PS3.4 C.4.1, C-FIND)."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from pydicom import Dataset
from pynetdicom.association import Association
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # built at import
    StudyRootQueryRetrieveInformationModelFind,
)

from node.core.errors import Fatal, Temporary
from node.core.names import AETitle
from node.core.result import ObjectRef
from node.dicom.scu import dicomweb
from node.dicom.scu.association import associated
from node.dicom.scu.peer import Peer

_PENDING: Final = frozenset((0xFF00, 0xFF01))
_SUCCESS: Final = 0x0000
_NEVER: Final = frozenset({0x0122, 0x0124, 0x0211, 0x0212})  # not supported, not authorised …
_MOST_ANSWERS: Final = 20_000  # of one question; a Series is smaller
_UID_CHARACTERS: Final = frozenset("0123456789.")


@dataclass(frozen=True)
class RemoteInstance:
    """One Instance that a Peer holds. number, SOP Class: where it says so."""

    sop_instance_uid: str
    number: int | None
    sop_class_uid: str = ""

    def __str__(self) -> str:
        uid = self.sop_instance_uid
        return uid if self.number is None else f"InstanceNumber {self.number} ({uid})"


class Query:
    """Questions to one Peer over one Association. Raises Temporary where it has no answer.

    questions: how many C-FINDs were sent.
    """

    def __init__(self, peer: Peer, association: Association) -> None:
        self._peer, self._association = peer, association
        self.questions = 0

    def count(self, study_instance_uid: str, series_instance_uid: str) -> int:
        """How many Instances of the Series it holds; 0 where it does not know the Series."""
        asked = _identifier("SERIES", study_instance_uid, series_instance_uid)
        asked.NumberOfSeriesRelatedInstances = ""
        for answer in self._find(asked):
            if _text(answer, "SeriesInstanceUID") == series_instance_uid:
                number = _whole(answer, "NumberOfSeriesRelatedInstances")
                if number is not None:
                    return number
                return len(self.instances(study_instance_uid, series_instance_uid))
        return 0

    def instances(self, study_instance_uid: str, series_instance_uid: str) -> list[RemoteInstance]:
        """Which Instances of the Series it holds, in the order of their numbers."""
        asked = _identifier("IMAGE", study_instance_uid, series_instance_uid)
        asked.SOPInstanceUID = ""
        asked.InstanceNumber = ""
        asked.SOPClassUID = ""
        found = {}
        for answer in self._find(asked):
            uid = _text(answer, "SOPInstanceUID")
            if uid and len(uid) <= 64 and _UID_CHARACTERS.issuperset(uid):
                number, of_class = _whole(answer, "InstanceNumber"), _text(answer, "SOPClassUID")
                found[uid] = RemoteInstance(uid, number, of_class)
        return sorted(found.values(), key=lambda one: (one.number or 0, one.sop_instance_uid))

    def holds(self, study_instance_uid: str, ref: ObjectRef) -> bool:
        """Whether it has this very Instance (IMAGE level)."""
        asked = _identifier("IMAGE", study_instance_uid, ref.series_instance_uid)
        asked.SOPInstanceUID = ref.sop_instance_uid
        return any(
            _text(one, "SOPInstanceUID") == ref.sop_instance_uid for one in self._find(asked)
        )

    def _require_success(self, status: int) -> None:
        """PS3.4 C.4.1.1.4. 0xCxxx, unable to process, may be another answer in a while."""
        if status == _SUCCESS:
            return
        sentence = f"{self._peer} refused a C-FIND with 0x{status:04X}"
        if status in _NEVER or 0xA900 <= status <= 0xA9FF:
            raise Fatal(f"{sentence}; let our AE title do C-FIND there")
        raise Temporary(sentence)

    def _find(self, identifier: Dataset) -> Sequence[Dataset]:
        """All answers to one question, within the Peer's time in all."""
        deadline = time.monotonic() + self._peer.timeout_seconds
        self.questions += 1
        found: list[Dataset] = []
        try:
            responses = self._association.send_c_find(
                identifier, StudyRootQueryRetrieveInformationModelFind
            )
            for status, answer in responses:
                code = status.get("Status")
                if code is None:
                    raise Temporary(f"{self._peer} did not answer a C-FIND, or broke off")
                if code not in _PENDING:
                    self._require_success(int(code))
                    return found
                if answer is not None:
                    found.append(answer)
                if len(found) > _MOST_ANSWERS or time.monotonic() > deadline:
                    self._association.abort()
                    raise Temporary(f"{self._peer} did not come to an end with a C-FIND")
        except (RuntimeError, ValueError) as error:  # the Association ended before the question
            raise Temporary(f"{self._peer} ended the association: {error}") from error
        raise Temporary(f"{self._peer} did not come to an end with a C-FIND")


@contextmanager
def querying(peer: Peer, calling_ae_title: AETitle) -> Iterator[Query]:
    """An Association for questions. Raises Temporary, Fatal where there is none."""
    contexts = [(StudyRootQueryRetrieveInformationModelFind, None)]
    with associated(peer, calling_ae_title, contexts) as association:
        yield Query(peer, association)


def holds(peer: Peer, calling_ae_title: AETitle, study_instance_uid: str, ref: ObjectRef) -> bool:
    """Whether a Peer says that it has an object. Raises Temporary, Fatal where it says nothing.

    By C-FIND, or QIDO-RS to a DICOMweb Peer: less than a commitment, and known by every archive.
    """
    if peer.web is not None:
        series = ref.series_instance_uid
        return dicomweb.holds(peer, study_instance_uid, series, ref.sop_instance_uid)
    with querying(peer, calling_ae_title) as query:
        return query.holds(study_instance_uid, ref)


def _identifier(level: str, study_instance_uid: str, series_instance_uid: str) -> Dataset:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = level
    identifier.StudyInstanceUID = study_instance_uid
    identifier.SeriesInstanceUID = series_instance_uid
    return identifier


def _text(answer: Dataset, keyword: str) -> str:
    try:
        return str(answer.get(keyword) or "").strip()
    except Exception:  # a Peer's odd value, decoded only now
        return ""


def _whole(answer: Dataset, keyword: str) -> int | None:
    try:
        number = int(str(answer.get(keyword)))
    except Exception:  # as above
        return None
    return number if 0 <= number < 2**31 else None
