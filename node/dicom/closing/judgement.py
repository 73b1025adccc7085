"""The verdict on a Series as it is now. Pure: facts in, words out.

A Series closes at once where it is proven, after a settling time where it is consistent, after the
whole quiet period where neither can be said; and not before a last limit while somebody counts
more Instances than are here. See docs/decisions/0008-closing.md.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from node.core.verdict import Verdict
from node.dicom.closing.counts import agrees, peer_count, silence, unanswered
from node.dicom.closing.due import closes_after
from node.dicom.closing.evidence import INCOMPLETE, Facts, Finding, Instance
from node.dicom.closing.stated import concatenation, images_in_acquisition, one_object
from node.dicom.closing.times import Times
from node.dicom.closing.whole import associations, geometry, is_coming, no_images, numbers

_REFUSED_HERE: Final = (
    "an instance of one of its associations was refused here (the log: instance refused; aside/): "
    "if it is one of these, mend it at the source and send it again"
)


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


def judge(facts: Facts, times: Times) -> Judgement:
    """The verdict on a Series as it is now, the evidence in words, and how long to wait."""
    held = len(facts.instances)
    settled = any(agrees(one, held, times) for one in facts.counts)
    counting = _counting(facts, times)
    agreed = any(one.holds for one in counting)
    more = [one for one in counting if one.holds is False]
    silent = [silence(peer) for peer in unanswered(facts)]
    whole = _whole(facts, agreed, settled)
    verdict = _verdict([*whole, *silent, *more], agreed)
    due = closes_after(verdict, facts, times, bool(more))
    wait = max(0.0, due - facts.silent_seconds)
    refused = _refusal(more, facts.instances)
    return Judgement(verdict, [*whole, *counting, *silent], wait, refused)


def _whole(facts: Facts, agreed: bool, settled: bool) -> list[Finding]:
    """(a) to (c). settled: a Peer holds the very Instances that are here, and rests."""
    planes = [plane for one in facts.instances for plane in one.planes]
    found = [associations(facts.instances, agreed)]
    if planes:
        found = [geometry(planes, agreed), numbers(facts.instances), *found]
    else:
        found = [no_images(), *found]
    if not settled or is_coming(facts.instances):
        return found
    return [_overruled(one) if one.holds is False else one for one in found]


def _overruled(finding: Finding) -> Finding:
    """What a settled count of the same Instances outweighs; geometry is assembly's to refuse."""
    return replace(finding, holds=None, words=f"{finding.words}, and yet nothing more exists")


def _verdict(findings: Sequence[Finding], agreed: bool) -> Verdict:
    if any(one.holds is False for one in findings):
        return Verdict.UNPROVEN
    return Verdict.PROVEN if agreed else Verdict.CONSISTENT


def _refusal(more: Sequence[Finding], instances: Sequence[Instance]) -> str | None:
    """Why no Route may have it. What we refused ourselves is missing, too: the volume lacks it."""
    if not more:
        return None
    missing = [one for finding in more for one in finding.missing]
    sentence = "; ".join(one.words for one in more)
    if missing:
        sentence += f"; missing here: {', '.join(missing)}"
    if any(one.ending == INCOMPLETE for one in instances):
        sentence += f"; {_REFUSED_HERE}"
    return sentence


def _counting(facts: Facts, times: Times) -> list[Finding]:
    images = [one for one in facts.instances if one.planes]
    found = [peer_count(one, len(facts.instances), times) for one in facts.counts]
    if images and facts.header_counts:
        found.append(images_in_acquisition([p for one in images for p in one.planes]))
    if images:
        settled = facts.silent_seconds >= times.settled
        found += [concatenation(images, settled), one_object(facts.instances, settled)]
    return [one for one in found if one is not None]
