"""The Storage and Verification SCU (PS3.4 B, A): objects to a Peer, and what became of each."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from pynetdicom.association import Association
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # built at import

from node.core.errors import Fatal, Temporary
from node.core.names import AETitle, SOPInstanceUID
from node.dicom.scu import dicomweb
from node.dicom.scu.answers import Outcome, Stored, meaning, not_sent, require_stored
from node.dicom.scu.association import MOST_CONTEXTS, associated
from node.dicom.scu.encoded import store_encoded
from node.dicom.scu.instance import Instance, NotSendable, opened
from node.dicom.scu.peer import Peer
from node.dicom.uid_names import uid_name


def echo(peer: Peer, calling_ae_title: AETitle) -> None:
    """C-ECHO; for a DICOMweb Peer, a question. Raises Temporary or Fatal, saying what is wrong."""
    if peer.web is not None:
        dicomweb.echo(peer)
        return
    with associated(peer, calling_ae_title, [(Verification, None)]) as association:
        status = association.send_c_echo()
        if "Status" not in status:
            raise Temporary(
                f"{peer} did not answer within {peer.timeout_seconds:g} s, or broke off"
            )
        require_stored(peer, int(status.Status), str(status.get("ErrorComment", "") or ""))


def send(paths: Sequence[Path], peer: Peer, calling_ae_title: AETitle) -> str:
    """Stores files, all or it raises; returns the answers in words.

    Raises Fatal where a person must act for one of them, else Temporary where one may work later.
    Sending again is harmless (same SOP Instance UIDs).
    """
    stored = store(paths, peer, calling_ae_title)
    for outcome, error in ((Outcome.PERMANENT, Fatal), (Outcome.TEMPORARY, Temporary)):
        for one in stored:
            if one.outcome is outcome:
                raise error(one.answer)
    return ", ".join(sorted({one.answer for one in stored}))


def store(files: Sequence[Path], peer: Peer, calling_ae_title: AETitle) -> list[Stored]:
    """Sends the bytes of files as they lie; says of each, in their order, what became of it.

    By C-STORE over one Association (over more where there are more than 128 kinds), by STOW-RS
    to a DICOMweb Peer. What is refused keeps nothing else from being sent. Never raises for what
    a file holds, a Peer answers or a network does.
    """
    found: dict[int, Stored] = {}
    sendable: dict[int, Instance] = {}
    for number, path in enumerate(files):
        try:
            sendable[number] = opened(path)
        except NotSendable as error:
            answer = f"the file {error}"
            found[number] = Stored(error.sop_instance_uid, Outcome.PERMANENT, answer)
    instances = list(sendable.values())
    answers = (
        dicomweb.store(instances, peer)
        if peer.web is not None
        else _by_associations(instances, peer, calling_ae_title)
    )
    found |= zip(sendable, answers, strict=True)
    return [found[number] for number in sorted(found)]


def _by_associations(
    instances: Sequence[Instance], peer: Peer, calling_ae_title: AETitle
) -> list[Stored]:
    """What became of each, in their order."""
    answers: dict[Instance, Stored] = {}
    broken: Temporary | None = None
    for part in _fitting(instances):
        error = broken or _over_one(part, peer, calling_ae_title, answers)
        if isinstance(error, Temporary):
            broken = error  # a Peer that does not answer is not asked again at once
        if error is not None:
            for instance in part:
                answers.setdefault(instance, not_sent(instance, error))
    return [answers[instance] for instance in instances]


def _over_one(
    instances: Sequence[Instance],
    peer: Peer,
    calling_ae_title: AETitle,
    answers: dict[Instance, Stored],
) -> Temporary | Fatal | None:
    """Adds the answers that there are; returns why the others are missing."""
    kinds = sorted({instance.kind for instance in instances})
    try:
        with associated(peer, calling_ae_title, kinds) as association:
            for instance in instances:
                answers[instance] = _store(peer, association, instance)
    except (Temporary, Fatal) as error:
        return error
    except OSError as error:  # of the file, which was there a moment ago
        return Temporary(f"a file cannot be read any more: {error}")
    return None


def _fitting(instances: Sequence[Instance]) -> Iterator[list[Instance]]:
    """Parts that need no more presentation contexts than an Association has."""
    kinds = sorted({instance.kind for instance in instances})
    for begin in range(0, len(kinds), MOST_CONTEXTS):
        part = set(kinds[begin : begin + MOST_CONTEXTS])
        yield [instance for instance in instances if instance.kind in part]


def _store(peer: Peer, association: Association, instance: Instance) -> Stored:
    uid = SOPInstanceUID(instance.sop_instance_uid)
    context_id = _context_id(association, instance)
    if context_id is None:
        sop_class, syntax = (uid_name(one) for one in instance.kind)
        sentence = f"{peer} does not accept {sop_class} in {syntax}; enable it there, then resend"
        return Stored(uid, Outcome.PERMANENT, sentence)
    response = store_encoded(peer, association, context_id, instance)
    comment = str(response.ErrorComment or "")
    return Stored(uid, *meaning(peer, int(response.Status or 0), comment))


def _context_id(association: Association, instance: Instance) -> int | None:
    for context in association.accepted_contexts:
        if (context.abstract_syntax, *context.transfer_syntax) == instance.kind:
            return context.context_id
    return None
