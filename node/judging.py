"""What a Series is judged by, as values: what is known of it, and how long it may wait."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from node.core.verdict import Verdict
from node.dicom.closing.evidence import OPEN, UNREAD, Facts, Instance, best_of, count_from
from node.dicom.closing.times import Times
from node.dicom.planes import plane_from
from node.dicom.routing import Route
from node.store.series import Brought


def longest(matching: Sequence[Route], usual: Times) -> Times:
    """The times of a Series: the longest that its Routes set; the most that one of them wants."""
    if not matching:
        return usual
    surest = max((route.least_verdict for route in matching), key=list(Verdict).index)
    return replace(
        usual,
        settle_seconds=max(route.settle_seconds or usual.settle_seconds for route in matching),
        quiet_seconds=max(route.quiet_seconds or usual.quiet_seconds for route in matching),
        least=surest,
    )


def facts_of(
    brought: Sequence[Brought],
    counts: Mapping[str, Mapping[str, object]],
    silent_seconds: float,
    asks: Sequence[str],
    unread: Collection[str],
    header_counts: bool,
) -> Facts:
    """What the database holds of a Series, as evidence."""

    def ending(one: Brought) -> str | None:
        return best_of([UNREAD if name in unread else end or OPEN for name, end in one.bringers])

    return Facts(
        instances=[
            Instance(
                one.sop_instance_uid,
                one.number,
                one.parts,
                ending(one),
                tuple(plane_from(values) for values in one.planes),
            )
            for one in brought
        ],
        silent_seconds=silent_seconds,
        counts=[count_from(values) for values in counts.values()],
        asks=asks,
        header_counts=header_counts,
    )
