"""(a) to (c): geometry, InstanceNumber, Associations."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from node.core.text import counted
from node.dicom.closing.evidence import INCOMPLETE, OPEN, RELEASED, UNREAD, Finding, Instance
from node.dicom.planes import VOLUME_SOP_CLASSES, Plane
from node.dicom.volumes import Candidate, Fault, split

_NOT_WHOLE: Final = frozenset((Fault.UNEVEN, Fault.REPEATED, Fault.NO_PLACE))
_MOST_NAMED = 20
_MOST_GAPS = 100_000  # hostile numbers would make a list of billions


def geometry(planes: Sequence[Plane], agreed: bool) -> Finding:
    """One spacing in each stack. Where a count agrees, another spacing is how it was taken."""
    candidates = split(planes)
    faulty = [one for one in candidates if _is_faulty(one)]
    if faulty and agreed and all(one.kind is Fault.UNEVEN for one in faulty):
        words = "; ".join(_faulty_in_words(one) for one in faulty[:3])
        return Finding("geometry", None, f"{words}, and yet a count agrees")
    if faulty:
        return Finding("geometry", False, "; ".join(_faulty_in_words(one) for one in faulty[:3]))
    stacks = [one for one in candidates if one.kind is not Fault.NO_VOLUME]
    if not stacks:
        return Finding("geometry", None, "no slices of a volume")
    if len(stacks) == 1:
        slices = counted(len(stacks[0].planes), "slice")
        return Finding("geometry", True, f"{slices} without a gap")
    sizes = " and ".join(str(len(one.planes)) for one in stacks[:5])
    more = f" and {len(stacks) - 5} more" if len(stacks) > 5 else ""
    return Finding("geometry", True, f"{sizes}{more} slices without a gap")


def _is_faulty(candidate: Candidate) -> bool:
    if candidate.kind is None or candidate.kind not in _NOT_WHOLE:
        return False
    return candidate.planes[0].sop_class_uid in VOLUME_SOP_CLASSES


def _faulty_in_words(candidate: Candidate) -> str:
    return (f"{candidate.why}: " if candidate.why else "") + (candidate.fault or "")


def no_images() -> Finding:
    return Finding("geometry", None, "no images in it")


# --- (b) InstanceNumber


def numbers(instances: Sequence[Instance]) -> Finding:
    """Without gaps, from 1 (or 0), each equally often.

    Other objects than images fill gaps and are not asked for their number.
    """
    images = [one for one in instances if one.planes]
    unnumbered = sum(one.number is None for one in images)
    if unnumbered:
        return Finding("numbers", False, f"{unnumbered} of {len(images)} have no InstanceNumber")
    often = Counter(one.number for one in images if one.number is not None)
    first, last = min(often), max(often)
    others = {one.number for one in instances if not one.planes}
    if last - first > _MOST_GAPS + len(often):
        words = f"InstanceNumber {first} to {last}, {len(often)} of them here"
        return Finding("numbers", False, words)
    gaps = [n for n in range(first, last + 1) if n not in often and n not in others]
    if gaps:
        words = f"InstanceNumber {ranges(gaps)} {'are' if len(gaps) > 1 else 'is'} missing"
        return Finding("numbers", False, words, (f"InstanceNumber {ranges(gaps)}",))
    if len(set(often.values())) > 1:
        most = max(often.values())
        fewer = ranges(n for n, times in often.items() if times < most)
        words = f"InstanceNumber {fewer} less often than the others, which are here {most} times"
        return Finding("numbers", False, words)
    if first > 1:
        return Finding("numbers", False, f"InstanceNumber begins with {first}")
    if len(often) == 1 < len(images) and all(one.parts is None for one in images):
        return Finding("numbers", False, f"all {len(images)} have InstanceNumber {first}")
    return Finding("numbers", True, f"InstanceNumber {ranges(often)} without a gap")


def ranges(numbers: Iterable[int]) -> str:
    """7 to 9, 11: whole numbers in order, neighbours drawn together, not endlessly many."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    words = [str(a) if a == b else f"{a} to {b}" for a, b in spans[:_MOST_NAMED]]
    return ", ".join(words) + (" and more" if len(spans) > _MOST_NAMED else "")


# --- (c) Associations


_ENDINGS: Final[Mapping[str | None, str]] = {
    RELEASED: "released",
    INCOMPLETE: "incomplete (released, but not all that was sent over it could be kept)",
    "idle": "not released: the sender said nothing more for dicom.idle_seconds",
    "aborted": "aborted",
    "lost": "cut off",
    OPEN: "still open",
    UNREAD: "not read from disk yet",
    None: "unknown",
}


def associations(instances: Sequence[Instance], agreed: bool) -> Finding:
    """What was refused may be of this Series or of another; a count that agrees says: another."""
    endings = Counter(one.ending for one in instances)
    if set(endings) <= {RELEASED}:
        return Finding("associations", True, "released by the sender")
    if agreed and set(endings) <= {RELEASED, INCOMPLETE}:
        words = "released by the sender; what was not kept is of another series, as a count agrees"
        return Finding("associations", True, words)
    told = [
        f"{count} of {len(instances)} came over an association that is "
        f"{_ENDINGS.get(ending, ending)}"
        for ending, count in endings.items()
        if ending != RELEASED
    ]
    return Finding("associations", False, "; ".join(told))


def is_coming(instances: Sequence[Instance]) -> bool:
    return any(one.ending in (OPEN, UNREAD) for one in instances)
