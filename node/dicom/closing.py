"""Whether a Series is whole: evidence, a verdict, and how long to wait for better.

Pure: facts in, words out. A Series closes at once where it is proven, after a settling time where
it is consistent, after the whole quiet period where neither can be said; and not before a last
limit while somebody counts more Instances than are here. See docs/decisions/0008-closing.md.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
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

_REST_SECONDS: Final = 1.0  # for the answer to a question that is put after the settling time
_NOT_WHOLE: Final = frozenset((Fault.UNEVEN, Fault.REPEATED, Fault.NO_PLACE))
_MOST_NAMED = 20
_MOST_GAPS = 100_000  # hostile numbers would make a list of billions


@dataclass(frozen=True)
class Times:
    """How long a Series waits after its last Instance, s. least: what its Routes accept.

    answer_seconds: for a Peer that is asked for its count and has not answered.
    """

    settle_seconds: float = 3.0
    quiet_seconds: float = 10.0
    last_limit_seconds: float = 3600.0
    least: Verdict = Verdict.CONSISTENT
    answer_seconds: float = 120.0

    @property
    def settled(self) -> float:
        """The settling time, which is never longer than the quiet period."""
        return min(self.settle_seconds, self.quiet_seconds)


@dataclass(frozen=True)
class Count:
    """What a Peer answered by C-FIND. instances: that it holds of the Series, None: not asked yet.

    held: how many were here when it was asked. ahead: by how many it was ahead when it first gave
    this number. stable_seconds: for how long it has given it; rested_seconds: with as many here.
    grew: it gave a lower one before. compared: it holds the same SOP Instance UIDs as we do, beside
    left_out others that belong in no volume. missing: what else it holds and we do not, in words.
    error: why the last question had no answer.
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
    rested_seconds: float = 0.0
    left_out: int = 0
    compared: bool = False

    def is_of(self, held: int) -> bool:
        """Whether it was answered since the last of these Instances came."""
        return self.instances is not None and self.held == held and self.error is None


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
    held = len(facts.instances)
    settled = any(_agrees(one, held, times) for one in facts.counts)
    counting = _counting(facts, times)
    agreed = any(one.holds for one in counting)
    more = [one for one in counting if one.holds is False]
    silent = [_silence(peer) for peer in _unanswered(facts)]
    whole = _whole(facts, agreed, settled)
    verdict = _verdict([*whole, *silent, *more], agreed)
    due = _due(verdict, facts, times, bool(more))
    wait = max(0.0, due - facts.silent_seconds)
    return Judgement(verdict, [*whole, *counting, *silent], wait, _refusal(more))


def _whole(facts: Facts, agreed: bool, settled: bool) -> list[Finding]:
    """(a) to (c). settled: a Peer holds the very Instances that are here, and rests."""
    planes = [plane for one in facts.instances for plane in one.planes]
    found = [_associations(facts.instances, agreed)]
    if planes:
        found = [_geometry(planes, agreed), _numbers(facts.instances), *found]
    else:
        found = [_no_images(), *found]
    if not settled or _is_coming(facts.instances):
        return found
    return [_overruled(one) if one.holds is False else one for one in found]


def _overruled(finding: Finding) -> Finding:
    """What a settled count of the same Instances outweighs; geometry is assembly's to refuse."""
    return replace(finding, holds=None, words=f"{finding.words}, and yet nothing more exists")


def _is_coming(instances: Sequence[Instance]) -> bool:
    return any(one.ending in (OPEN, UNREAD) for one in instances)


def _verdict(findings: Sequence[Finding], agreed: bool) -> Verdict:
    if any(one.holds is False for one in findings):
        return Verdict.UNPROVEN
    return Verdict.PROVEN if agreed else Verdict.CONSISTENT


def _due(verdict: Verdict, facts: Facts, times: Times, more_exist: bool) -> float:
    """How many silent seconds close it."""
    if more_exist:
        return max(times.last_limit_seconds, times.quiet_seconds)
    if _unanswered(facts):
        return max(times.answer_seconds, times.quiet_seconds)
    if _cannot_be_asked(facts):
        return times.quiet_seconds
    if verdict is Verdict.PROVEN:
        return 0.0
    if _stands_alone(facts) and facts.silent_seconds < times.settled:
        return times.settled
    if not verdict.is_at_least(times.least):
        return times.quiet_seconds + (_longest_rest(times) if _may_agree(facts, times) else 0.0)
    if verdict is Verdict.UNPROVEN:
        return times.quiet_seconds
    return times.settled + (_REST_SECONDS if _agrees_soon(facts, times) else 0.0)


def _longest_rest(times: Times) -> float:
    """For how long a Peer that counts as many may be waited for: it is asked again meanwhile."""
    return max(times.answer_seconds, times.quiet_seconds)


def _may_agree(facts: Facts, times: Times) -> bool:
    """Whether a Peer counts what is here and has not done so for long enough."""
    held = len(facts.instances)
    return not _is_coming(facts.instances) and any(
        one.is_of(held) and _wanted(one) == held and not _agrees(one, held, times)
        for one in facts.counts
    )


def _agrees_soon(facts: Facts, times: Times) -> bool:
    """Whether nothing but the settling time keeps a Peer's count from agreeing."""
    held = len(facts.instances)
    return any(
        _agrees(replace(one, rested_seconds=times.settled, compared=True), held, times)
        and not _agrees(one, held, times)
        for one in facts.counts
        if one.rested_seconds < times.settled
    )


def _unanswered(facts: Facts) -> list[str]:
    """Peers that are asked and have not answered since the last Instance came."""
    if not any(one.planes for one in facts.instances):
        return []
    held, unable = len(facts.instances), _cannot_be_asked(facts)
    answered = {one.peer for one in facts.counts if one.is_of(held)}
    return [peer for peer in facts.asks if peer not in answered and peer not in unable]


def _cannot_be_asked(facts: Facts) -> set[str]:
    """Peers that have answered nothing about this Series, and said or showed why."""
    unable = {one.peer for one in facts.counts if one.instances is None and one.error}
    return unable & set(facts.asks) if any(one.planes for one in facts.instances) else set()


def _silence(peer: str) -> Finding:
    words = f"{peer} has not said how many exist since the last came"
    return Finding(f"answer of {peer}", False, words)


def _refusal(more: Sequence[Finding]) -> str | None:
    if not more:
        return None
    missing = [one for finding in more for one in finding.missing]
    sentence = "; ".join(one.words for one in more)
    return sentence + (f"; missing here: {', '.join(missing)}" if missing else "")


# --- (a) geometry


def _geometry(planes: Sequence[Plane], agreed: bool) -> Finding:
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


def _numbers(instances: Sequence[Instance]) -> Finding:
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
        settled = facts.silent_seconds >= times.settled
        found += [_concatenation(images, settled), _one_object(facts.instances, settled)]
    return [one for one in found if one is not None]


def _peer_count(count: Count, held: int, times: Times) -> Finding | None:
    """A Peer's count. It agrees where nothing says that the Peer is still receiving itself."""
    name = f"count of {count.peer}"
    if count.instances is None:
        return Finding(name, None, f"{count.peer}: {count.error}") if count.error else None
    here = f"{count.peer} counts {count.instances} and {held} are here"
    if count.left_out:
        here += f", {count.left_out} of them no slices of a volume"
    if _wanted(count) > held or (count.missing_count and count.is_of(held)):
        return Finding(name, False, here, count.missing)
    if not count.is_of(held):
        return Finding(name, None, here + ", asked before the last came")
    if _wanted(count) < held:
        return Finding(name, None, here + ": it is not a count of the whole")
    if not _agrees(count, held, times):
        return Finding(name, None, here + ": it may be receiving still")
    if count.stable_seconds >= times.quiet_seconds:
        return Finding(name, True, here + f", unchanged for {count.stable_seconds:.0f} s")
    return Finding(name, True, here + ", as it said before they came")


def _wanted(count: Count) -> int:
    """How many of what it counts can be here."""
    return (count.instances or 0) - count.left_out


def _agrees(count: Count, held: int, times: Times) -> bool:
    """Whether it holds the very Instances that are here, and is not receiving more itself.

    It must rest after the last came here, too: where its own source stalls, so does it.
    """
    if not (count.is_of(held) and _wanted(count) == held and count.compared):
        return False
    if count.missing_count or count.rested_seconds < times.settled:
        return False
    said_before = count.ahead >= AHEAD and not count.grew
    return said_before or count.stable_seconds >= times.quiet_seconds


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


def _concatenation(images: Sequence[Instance], settled: bool) -> Finding | None:
    """Parts of a concatenation, PS3.3 C.7.6.16.1.1; another one may follow at once."""
    parts = [one.parts for one in images if one.parts is not None]
    if not parts:
        return None
    total = max(parts)
    words = f"the headers count {total or 'no'} parts of a concatenation, {len(parts)} are here"
    if total > len(parts):
        return Finding("concatenation", False, words)
    whole = total == len(parts) == len(images)
    return Finding("concatenation", True if whole and settled else None, words)


def _one_object(instances: Sequence[Instance], settled: bool) -> Finding | None:
    """A multi-frame object that is alone in its Series and lies there with all its frames.

    The first of several is alone, too, until the second comes.
    """
    if len(instances) != 1 or instances[0].parts is not None:
        return None
    (one,) = instances
    frames = [plane for plane in one.planes if plane.frame is not None]
    if not frames or one.number not in (None, 0, 1):
        return None
    if any(plane.position is None for plane in frames):
        return None
    words = f"all {len(frames)} frames of the one object"
    return Finding("frames", True if settled else None, words)


def _stands_alone(facts: Facts) -> bool:
    """Whether settling makes a proof of what is here."""
    images = [one for one in facts.instances if one.planes]
    alone = (_one_object(facts.instances, True), _concatenation(images, True))
    return bool(images) and any(one is not None and one.holds is True for one in alone)
