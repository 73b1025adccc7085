"""(d) What a Peer counts of a Series, asked by C-FIND."""

from typing import Final

from node.dicom.closing.evidence import Count, Facts, Finding
from node.dicom.closing.times import Times

# A Peer that is itself still receiving what it forwards is never far ahead of us.
AHEAD: Final = 10


def peer_count(count: Count, held: int, times: Times) -> Finding | None:
    """A Peer's count. It agrees where nothing says that the Peer is still receiving itself."""
    name = f"count of {count.peer}"
    if count.instances is None:
        return Finding(name, None, f"{count.peer}: {count.error}") if count.error else None
    here = f"{count.peer} counts {count.instances} and {held} are here"
    if count.left_out:
        here += f", {count.left_out} of them no slices of a volume"
    if wanted(count) > held or (count.missing_count and count.is_of(held)):
        return Finding(name, False, here, count.missing)
    if not count.is_of(held):
        return Finding(name, None, here + ", asked before the last came")
    if wanted(count) < held:
        return Finding(name, None, here + ": it is not a count of the whole")
    if not agrees(count, held, times):
        return Finding(name, None, here + ": it may be receiving still")
    if count.stable_seconds >= times.quiet_seconds:
        return Finding(name, True, here + f", unchanged for {count.stable_seconds:.0f} s")
    return Finding(name, True, here + ", as it said before they came")


def wanted(count: Count) -> int:
    """How many of what it counts can be here."""
    return (count.instances or 0) - count.left_out


def agrees(count: Count, held: int, times: Times) -> bool:
    """Whether it holds the very Instances that are here, and is not receiving more itself.

    It must rest after the last came here, too: where its own source stalls, so does it.
    """
    if not (count.is_of(held) and wanted(count) == held and count.compared):
        return False
    if count.missing_count or count.rested_seconds < times.settled:
        return False
    said_before = count.ahead >= AHEAD and not count.grew
    return said_before or count.stable_seconds >= times.quiet_seconds


def unanswered(facts: Facts) -> list[str]:
    """Peers that are asked and have not answered since the last Instance came."""
    if not any(one.planes for one in facts.instances):
        return []
    held, unable = len(facts.instances), cannot_be_asked(facts)
    answered = {one.peer for one in facts.counts if one.is_of(held)}
    return [peer for peer in facts.asks if peer not in answered and peer not in unable]


def cannot_be_asked(facts: Facts) -> set[str]:
    """Peers that have answered nothing about this Series, and said or showed why."""
    unable = {one.peer for one in facts.counts if one.instances is None and one.error}
    return unable & set(facts.asks) if any(one.planes for one in facts.instances) else set()


def silence(peer: str) -> Finding:
    words = f"{peer} has not said how many exist since the last came"
    return Finding(f"answer of {peer}", False, words)
