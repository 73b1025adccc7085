"""When a Series closes: how many silent seconds its evidence is waited for."""

from dataclasses import replace
from typing import Final

from node.core.verdict import Verdict
from node.dicom.closing.counts import agrees, cannot_be_asked, unanswered, wanted
from node.dicom.closing.evidence import Facts
from node.dicom.closing.stated import stands_alone
from node.dicom.closing.times import Times
from node.dicom.closing.whole import is_coming

_REST_SECONDS: Final = 1.0  # for the answer to a question that is put after the settling time


def closes_after(verdict: Verdict, facts: Facts, times: Times, more_exist: bool) -> float:
    """How many silent seconds close it."""
    if more_exist:
        return max(times.last_limit_seconds, times.quiet_seconds)
    if unanswered(facts):
        return max(times.answer_seconds, times.quiet_seconds)
    if cannot_be_asked(facts):
        return times.quiet_seconds
    if verdict is Verdict.PROVEN:
        return 0.0
    if stands_alone(facts) and facts.silent_seconds < times.settled:
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
    return not is_coming(facts.instances) and any(
        one.is_of(held) and wanted(one) == held and not agrees(one, held, times)
        for one in facts.counts
    )


def _agrees_soon(facts: Facts, times: Times) -> bool:
    """Whether nothing but the settling time keeps a Peer's count from agreeing."""
    held = len(facts.instances)
    return any(
        agrees(replace(one, rested_seconds=times.settled, compared=True), held, times)
        and not agrees(one, held, times)
        for one in facts.counts
        if one.rested_seconds < times.settled
    )
