"""Recording: what lies in incoming/ gets its row and its place, many files at a time."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

from node.core.commitment import Asked, Report
from node.dicom.closing.evidence import INCOMPLETE, RELEASED
from node.dicom.header import Undecodable
from node.dicom.inbox import Inbox, IncomingEnd, IncomingInstance, association_of
from node.dicom.planes import VOLUME_SOP_CLASSES, plane_values
from node.store.arrivals import AssociationEnd, Held, StoredInstance
from node.store.series import Brought, Described

RECORDED: Final = "recorded"
REPEATED: Final = "repeated"
ENDED: Final = "ended"
ASIDE: Final = "aside"
CONFLICT: Final = "conflict"
NOT_YET: Final = "not yet"
ASKED: Final = "asked"
REPORTED: Final = "reported"


class Mapper(Protocol):
    """`map`, or that of an executor: reading and hashing let other threads run."""

    def __call__(
        self, function: Callable[[Path], Any], paths: Iterable[Path], /
    ) -> Iterable[Any]: ...


@dataclass(frozen=True)
class Commitment:
    """Where goes what peers say of Storage Commitment; both may be told the same again.

    on_asked: requests to us. on_report: what a Peer says of Instances that we sent.
    """

    on_asked: Callable[[Sequence[Asked], float], None]
    on_report: Callable[[Report, float], None]


@dataclass(frozen=True)
class Opened:
    """A file of incoming/, read again: an Instance, an end, a word of commitment; or why not."""

    path: Path
    row: StoredInstance | None = None
    end: AssociationEnd | None = None
    asked: Asked | None = None
    report: Report | None = None
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
            if path.suffix == ".asked":
                return Opened(path, asked=inbox.open_asked(path))
            if path.suffix == ".commit":
                return Opened(path, report=inbox.open_report(path))
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


def committed(found: Sequence[Opened], commitment: Commitment, now: float) -> list[Opened]:
    """Passes on what was said of commitment, once the rows are safe of all that came before it."""
    commitment.on_asked([one.asked for one in found if one.asked is not None], now)
    return [_reported(one, commitment, now) if one.report is not None else one for one in found]


def _reported(one: Opened, commitment: Commitment, now: float) -> Opened:
    assert one.report is not None
    try:
        commitment.on_report(one.report, now)
    except Exception as error:  # of this report alone; it stays, and everything else is recorded
        return Opened(one.path, error=f"the report cannot be taken in: {error!r}")
    return one


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
    if one.asked is not None or one.report is not None:
        inbox.discard(one.path)
        return Recorded(one.path, *_in_words(one.asked, one.report))
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


def described_again(brought: Sequence[Brought], inbox: Inbox) -> list[Described]:
    """What an earlier version did not note of images: their planes, read from the files once."""
    found = []
    for one in brought:
        if one.planes or not one.path or one.sop_class_uid not in VOLUME_SOP_CLASSES:
            continue
        try:
            planes, number, parts = inbox.described(one.path)
        except (Undecodable, OSError):  # deleted by hand, or damaged: the judgement goes without
            continue
        values = [plane_values(plane) for plane in planes]
        found.append(Described(one.sop_instance_uid, values, number, parts))
    return found


def _in_words(asked: Asked | None, report: Report | None) -> tuple[str, str]:
    if asked is not None:
        count, who = len(asked.items), asked.calling_ae_title
        return ASKED, f"{who} asks for {count} Instances, transaction {asked.transaction_uid}"
    assert report is not None
    return REPORTED, (
        f"{report.calling_ae_title} commits to {len(report.committed)} Instances and not to "
        f"{len(report.failed)}, transaction {report.transaction_uid}"
    )


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
