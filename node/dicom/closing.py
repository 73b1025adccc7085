"""Whether a Series is whole: evidence, a verdict, and how long to wait for better.

Pure: facts in, words out. A Series closes at once where it is proven, after a settling time where
it is consistent, after the whole quiet period where neither can be said; and not before a last
limit while somebody counts more Instances than are here. See docs/decisions/0008-closing.md.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from node.core.verdict import Verdict
from node.dicom.planes import VOLUME_SOP_CLASSES, Plane
from node.dicom.volumes import Candidate, Fault, split

RELEASED: Final = "released"
INCOMPLETE: Final = "incomplete"  # released, but something that was sent over it is not here
OPEN: Final = "open"
UNREAD: Final = "unread"  # something of it is safe on disk and cannot be read yet

# A Peer that is itself still receiving what it forwards is never far ahead of us.
AHEAD: Final = 10

_NOT_WHOLE: Final = frozenset((Fault.UNEVEN, Fault.REPEATED, Fault.NO_PLACE))
_MOST_NAMED = 20
_MOST_GAPS = 100_000  # hostile numbers would make a list of billions


@dataclass(frozen=True)
class Times:
    """How long a Series waits after its last Instance, s. least: what its Routes accept."""

    settle_seconds: float = 3.0
    quiet_seconds: float = 10.0
    last_limit_seconds: float = 3600.0
    least: Verdict = Verdict.CONSISTENT


@dataclass(frozen=True)
class Count:
    """What a Peer answered by C-FIND. instances: that it holds of the Series, None: not asked yet.

    held: how many were here when it was asked. ahead: by how many it was ahead when it first gave
    this number. stable_seconds: for how long it has given it. grew: it gave a lower one before.
    missing: what it holds and we do not, in words. error: why the last question had no answer.
    """

    peer: str
    instances: int | None = None
    held: int = 0
    ahead: int = 0
    stable_seconds: float = 0.0
    grew: bool = False
    missing: tuple[str, ...] = ()
    missing_count: int = 0
    error: str | None = None
    at: float = 0.0


@dataclass(frozen=True)
class Instance:
    """One Instance as evidence. ending: of the Association that brought it, None: not known."""

    sop_instance_uid: str
    number: int | None
    parts: int | None
    ending: str | None
    planes: tuple[Plane, ...] = ()


@dataclass(frozen=True)
class Facts:
    """All that a judgement rests on. asks: Peers that are asked for their count.

    silent_seconds: since the last Instance. header_counts: whether (0020,1002) is believed.
    """

    instances: Sequence[Instance]
    silent_seconds: float
    counts: Sequence[Count] = ()
    asks: Sequence[str] = ()
    header_counts: bool = True


@dataclass(frozen=True)
class Finding:
    """One piece of evidence. holds: None where it neither speaks for nor against."""

    evidence: str
    holds: bool | None
    words: str
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Judgement:
    """verdict: how sure it is. wait_seconds: until the Series closes if nothing more comes; 0: now.

    refused: why no Route may have it, whatever its Routes accept.
    """

    verdict: Verdict
    findings: Sequence[Finding]
    wait_seconds: float
    refused: str | None = None

    @property
    def words(self) -> str:
        return f"{self.verdict}: " + "; ".join(one.words for one in self.findings)

    @property
    def lacks(self) -> str:
        """What keeps it from being surer."""
        against = [one.words for one in self.findings if one.holds is False]
        return "; ".join(against or ["no count agrees"])

    def values(self) -> list[dict[str, Any]]:
        """The findings as JSON takes them."""
        return [asdict(one) for one in self.findings]


def count_values(count: Count) -> dict[str, Any]:
    """A Count as JSON takes it."""
    return asdict(count)


def count_from(values: Mapping[str, Any]) -> Count:
    """The Count of `count_values`, after it was JSON."""
    return Count(**dict(values) | {"missing": tuple(values.get("missing", ()))})


def judge(facts: Facts, times: Times) -> Judgement:
    """The verdict on a Series as it is now, the evidence in words, and how long to wait."""
    counting = _counting(facts, times)
    agreed = any(one.holds for one in counting)
    planes = [plane for one in facts.instances for plane in one.planes]
    whole = [
        *([_geometry(planes), _numbers(facts.instances, agreed)] if planes else [_no_images()]),
        _associations(facts.instances, agreed),
    ]
    more = [one for one in counting if one.holds is False]
    verdict = _verdict(whole, agreed, bool(more))
    findings = [*whole, *counting]
    wait = max(0.0, _due(verdict, facts, times, bool(more)) - facts.silent_seconds)
    return Judgement(verdict, findings, wait, _refusal(more))


def _verdict(whole: Sequence[Finding], agreed: bool, more_exist: bool) -> Verdict:
    if more_exist or any(one.holds is False for one in whole):
        return Verdict.UNPROVEN
    return Verdict.PROVEN if agreed else Verdict.CONSISTENT


def _due(verdict: Verdict, facts: Facts, times: Times, more_exist: bool) -> float:
    """How many silent seconds close it."""
    if more_exist:
        return max(times.last_limit_seconds, times.quiet_seconds)
    if verdict is Verdict.PROVEN:
        return 0.0
    better_may_come = not verdict.is_at_least(times.least) or _unanswered(facts)
    if verdict is Verdict.CONSISTENT and not better_may_come:
        return min(times.settle_seconds, times.quiet_seconds)
    return times.quiet_seconds


def _unanswered(facts: Facts) -> bool:
    """Whether a Peer that is asked has not answered since the last Instance came."""
    held = len(facts.instances)
    answered = {one.peer for one in facts.counts if one.held == held and one.error is None}
    has_images = any(one.planes for one in facts.instances)
    return has_images and any(peer not in answered for peer in facts.asks)


def _refusal(more: Sequence[Finding]) -> str | None:
    if not more:
        return None
    missing = [one for finding in more for one in finding.missing]
    sentence = "; ".join(one.words for one in more)
    return sentence + (f"; missing here: {', '.join(missing)}" if missing else "")


# --- (a) geometry


def _geometry(planes: Sequence[Plane]) -> Finding:
    candidates = split(planes)
    faulty = [one for one in candidates if _is_faulty(one)]
    if faulty:
        return Finding("geometry", False, "; ".join(_faulty_in_words(one) for one in faulty[:3]))
    stacks = [one for one in candidates if one.kind is not Fault.NO_VOLUME]
    if not stacks:
        return Finding("geometry", None, "no slices of a volume")
    sizes = " and ".join(str(len(one.planes)) for one in stacks[:5])
    more = f" and {len(stacks) - 5} more" if len(stacks) > 5 else ""
    return Finding("geometry", True, f"{sizes}{more} slices without a gap")


def _is_faulty(candidate: Candidate) -> bool:
    if candidate.kind is None or candidate.kind not in _NOT_WHOLE:
        return False
    return candidate.planes[0].sop_class_uid in VOLUME_SOP_CLASSES


def _faulty_in_words(candidate: Candidate) -> str:
    return (f"{candidate.why}: " if candidate.why else "") + (candidate.fault or "")


def _no_images() -> Finding:
    return Finding("geometry", None, "no images in it")


# --- (b) InstanceNumber


def _numbers(instances: Sequence[Instance], agreed: bool) -> Finding:
    """Without gaps, from 1 (or 0), each equally often; a count that agrees may say where it starts.

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
    if first > 1 and not agreed:
        words = f"InstanceNumber begins with {first}, and no count says that nothing is before it"
        return Finding("numbers", False, words)
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
    "aborted": "aborted",
    "lost": "cut off",
    OPEN: "still open",
    UNREAD: "not read from disk yet",
    None: "unknown",
}


def _associations(instances: Sequence[Instance], agreed: bool) -> Finding:
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


# --- (d) counts


def _counting(facts: Facts, times: Times) -> list[Finding]:
    images = [one for one in facts.instances if one.planes]
    found = [_peer_count(one, len(facts.instances), times) for one in facts.counts]
    if images and facts.header_counts:
        found.append(_images_in_acquisition([p for one in images for p in one.planes]))
    if images:
        found += [_concatenation(images), _one_object(facts.instances)]
    return [one for one in found if one is not None]


def _peer_count(count: Count, held: int, times: Times) -> Finding | None:
    """A Peer's count. It agrees where nothing says that the Peer is still receiving itself."""
    name = f"count of {count.peer}"
    if count.instances is None:
        return Finding(name, None, f"{count.peer}: {count.error}") if count.error else None
    here = f"{count.peer} counts {count.instances} and {held} are here"
    if count.instances > held:
        return Finding(name, False, here, count.missing)
    if count.instances < held:
        return Finding(name, None, here + ": it is not a count of the whole")
    if count.held != held or count.error:
        return Finding(name, None, here + ", asked before the last came")
    if count.ahead >= AHEAD and not count.grew:
        return Finding(name, True, here + ", as it said before they came")
    if count.stable_seconds >= times.quiet_seconds:
        return Finding(name, True, here + f", unchanged for {count.stable_seconds:.0f} s")
    return Finding(name, None, here + ": it may be receiving still")


def _images_in_acquisition(planes: Sequence[Plane]) -> Finding | None:
    """(0020,1002), where it is one number: scanners that count as they go write many."""
    stated = {plane.images_in_acquisition for plane in planes if plane.frame is None}
    if len(stated) != 1 or (said := stated.pop()) is None or said < 1:
        return None
    words = f"the headers count {said} images (0020,1002) and {len(planes)} are here"
    if said > len(planes):
        return Finding("Images in Acquisition", False, words)
    if said < len(planes) or any(plane.frame is not None for plane in planes):
        return Finding("Images in Acquisition", None, words + ": it counts something else")
    if said < AHEAD:  # a scan of many acquisitions has so few in each
        return Finding("Images in Acquisition", None, words + ": too few to be a Series")
    return Finding("Images in Acquisition", True, words)


def _concatenation(images: Sequence[Instance]) -> Finding | None:
    """Parts of a concatenation, PS3.3 C.7.6.16.1.1."""
    parts = [one.parts for one in images if one.parts is not None]
    if not parts:
        return None
    total = max(parts)
    words = f"the headers count {total or 'no'} parts of a concatenation, {len(parts)} are here"
    if total > len(parts):
        return Finding("concatenation", False, words)
    whole = total == len(parts) == len(images)
    return Finding("concatenation", True if whole else None, words)


def _one_object(instances: Sequence[Instance]) -> Finding | None:
    """A multi-frame object that is alone in its Series and lies there with all its frames."""
    if len(instances) != 1 or instances[0].parts is not None:
        return None
    (one,) = instances
    frames = [plane for plane in one.planes if plane.frame is not None]
    if not frames or one.number not in (None, 0, 1):
        return None
    if any(plane.position is None for plane in frames):
        return None
    return Finding("frames", True, f"all {len(frames)} frames of the one object")
