"""Recording: what lies in incoming/ gets its row and its place, many files at a time."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

from node.dicom.closing import INCOMPLETE, RELEASED
from node.dicom.header import Undecodable
from node.dicom.inbox import Inbox, IncomingEnd, IncomingInstance, association_of
from node.dicom.planes import plane_values
from node.store.arrivals import AssociationEnd, Held, StoredInstance

RECORDED: Final = "recorded"
REPEATED: Final = "repeated"
ENDED: Final = "ended"
ASIDE: Final = "aside"
CONFLICT: Final = "conflict"
NOT_YET: Final = "not yet"


class Mapper(Protocol):
    """`map`, or that of an executor: reading and hashing let other threads run."""

    def __call__(
        self, function: Callable[[Path], Any], paths: Iterable[Path], /
    ) -> Iterable[Any]: ...


@dataclass(frozen=True)
class Opened:
    """A file of incoming/, read again: an Instance, an end, or neither and why."""

    path: Path
    row: StoredInstance | None = None
    end: AssociationEnd | None = None
    aside: str | None = None
    error: str | None = None


@dataclass(frozen=True)
class Recorded:
    """What became of a file. association: of one that must be tried again."""

    path: Path
    what: str
    detail: str | None = None
    association: str | None = None


def opened(incoming: Sequence[Path], inbox: Inbox, read: Mapper) -> list[Opened]:
    """Reads files of incoming/; one that cannot be read does not keep the others."""

    def one(path: Path) -> Opened:
        try:
            if path.suffix == ".end":
                return Opened(path, end=_end(inbox.open_end(path)))
            return Opened(path, row=_row(inbox.open_incoming(path), inbox))
        except Undecodable as error:  # it was readable when it was acknowledged: the disk is not
            return Opened(path, aside=f"read again from disk: {error}")
        except OSError as error:  # this file; the others may be well
            return Opened(path, error=str(error))

    return _with_what_is_aside(list(read(one, incoming)), inbox)


def _with_what_is_aside(found: list[Opened], inbox: Inbox) -> list[Opened]:
    """A release vouches for nothing where an acknowledged Instance is in no Series."""
    aside = {association_of(one.path) for one in found if one.aside is not None}
    return [
        replace(one, end=replace(one.end, ending=INCOMPLETE))
        if one.end is not None
        and one.end.ending == RELEASED
        and one.end.association is not None
        and (one.end.association in aside or inbox.has_aside(one.end.association))
        else one
        for one in found
    ]


def placed(one: Opened, held: Held | None, inbox: Inbox) -> Recorded:
    """Gives a file its place once its row is safe; may run again after a crash."""
    try:
        return _placed(one, held, inbox)
    except OSError as error:
        return Recorded(one.path, NOT_YET, str(error), association_of(one.path))


def _placed(one: Opened, held: Held | None, inbox: Inbox) -> Recorded:
    if one.error is not None:
        return Recorded(one.path, NOT_YET, one.error, association_of(one.path))
    if one.end is not None:
        inbox.discard(one.path)
        return Recorded(one.path, ENDED)
    if one.aside is not None or one.row is None:
        inbox.move_aside(one.path, one.aside or "")
        return Recorded(one.path, ASIDE, one.aside)
    final = Path(one.row.path)
    if held is not None and held.sha256 != one.row.sha256:
        reason = "another data set with this SOP Instance UID is held already"
        inbox.move_aside(one.path, reason, twin=held.aside)
        return Recorded(one.path, CONFLICT, f"{one.row.sop_instance_uid} is held with other bytes")
    if held is not None and inbox.has(final):
        inbox.discard(one.path)
        return Recorded(one.path, REPEATED)
    inbox.move(one.path, final)
    return Recorded(one.path, RECORDED)


def _row(instance: IncomingInstance, inbox: Inbox) -> StoredInstance:
    header = instance.header
    return StoredInstance(
        series_instance_uid=header.series_instance_uid,
        study_instance_uid=header.study_instance_uid,
        sop_instance_uid=header.sop_instance_uid,
        sop_class_uid=header.sop_class_uid,
        modality=header.modality,
        transfer_syntax_uid=instance.transfer_syntax_uid,
        sha256=instance.sha256,
        size_bytes=instance.size_bytes,
        path=str(inbox.final_path(header)),
        calling_ae_title=instance.calling_ae_title,
        received_at=instance.received_at,
        association=instance.association,
        planes=[plane_values(plane) for plane in instance.planes],
        number=instance.number,
        parts=instance.parts,
        file=instance.path.name,
    )


def _end(end: IncomingEnd) -> AssociationEnd:
    prefix = f"{end.receiver}." if end.receiver and end.association is None else None
    return AssociationEnd(end.ending, end.ended_at, end.association, prefix)
