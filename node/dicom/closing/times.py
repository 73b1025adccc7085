"""How long a Series waits, as the configuration and its Routes set it."""

from dataclasses import dataclass

from node.core.verdict import Verdict


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
