"""How sure the node is that a Series is whole."""

from enum import StrEnum


class Verdict(StrEnum):
    """The least sure first; `least` below compares by this order."""

    UNPROVEN = "unproven"  # nothing but that no more came
    CONSISTENT = "consistent"  # geometry whole, numbers without gaps, associations released
    PROVEN = "proven"  # consistent, and a count agrees

    def is_at_least(self, least: "Verdict") -> bool:
        """Whether this is as sure as `least`, or surer."""
        order = list(Verdict)
        return order.index(self) >= order.index(least)
