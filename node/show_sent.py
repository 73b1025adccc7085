"""How what a Peer answered to files looks: what it has, and why it has not the rest."""

from collections.abc import Sequence
from pathlib import Path

from node.dicom.scu.answers import Outcome, Stored
from node.dicom.scu.peer import Peer


def sent_lines(files: Sequence[Path], stored: Sequence[Stored], peer: Peer) -> list[str]:
    """For `segnode send`; stored: in the order of the files."""
    kept = [one.answer for one in stored if one.outcome is Outcome.STORED]
    if not kept:
        return _refusals(files, stored)
    of_all = "" if len(kept) == len(files) else f" of {len(files)}"
    answers = ", ".join(sorted(set(kept)))
    return [
        f"{len(kept)}{of_all} instances → {peer}: {answers}",
        *_refusals(files, stored),
    ]


def _refusals(files: Sequence[Path], stored: Sequence[Stored]) -> list[str]:
    """A line for each reason, with the files that it keeps away."""
    by_answer: dict[str, list[Path]] = {}
    for path, one in zip(files, stored, strict=True):
        if one.outcome is not Outcome.STORED:
            by_answer.setdefault(one.answer, []).append(path)
    return [f"{', '.join(map(str, paths))}: {answer}" for answer, paths in by_answer.items()]
