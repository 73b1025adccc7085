"""Which closed Series of one study fill the channels of a Model that reads several."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from node.core.names import SeriesInstanceUID


@dataclass(frozen=True)
class Candidate:
    """A Series that fits a channel. frame_of_reference_uid: "" where its header has none."""

    series_instance_uid: SeriesInstanceUID
    frame_of_reference_uid: str


@dataclass(frozen=True)
class Chosen:
    """One Series for each channel, in the channels' order."""

    series_instance_uids: tuple[SeriesInstanceUID, ...]


@dataclass(frozen=True)
class Missing:
    """Not every channel has a Series of its own. channels: those without; none of them where
    each has one, but the same one stands for two."""

    channels: tuple[int, ...]


@dataclass(frozen=True)
class Ambiguous:
    """There is more than one way to fill the channels. channels: those with several Series."""

    channels: tuple[int, ...]


def choose(candidates: Sequence[Sequence[Candidate]]) -> Chosen | Missing | Ambiguous:
    """The one way to give each channel a Series of its own; candidates: by channel.

    Of several ways the one within one Frame of Reference is taken, if there is exactly one: the
    others could not be laid over each other. Nothing is guessed beyond that.
    """
    if missing := tuple(n for n, found in enumerate(candidates) if not found):
        return Missing(missing)
    ways = list(islice(_ways_in_one_frame(candidates), 2)) or list(islice(_ways(candidates), 2))
    if not ways:
        return Missing(())
    if len(ways) == 1:
        return Chosen(ways[0])
    return Ambiguous(tuple(n for n, found in enumerate(candidates) if len(found) > 1))


def _ways_in_one_frame(
    candidates: Sequence[Sequence[Candidate]],
) -> Iterator[tuple[SeriesInstanceUID, ...]]:
    frames = dict.fromkeys(one.frame_of_reference_uid for one in candidates[0])
    for frame in frames:
        if frame:
            yield from _ways(
                [[c for c in found if c.frame_of_reference_uid == frame] for found in candidates]
            )


def _ways(candidates: Sequence[Sequence[Candidate]]) -> Iterator[tuple[SeriesInstanceUID, ...]]:
    """Every choice of one Series per channel, none of them twice.

    The channels with the fewest go first: that there is no way is known before many were tried.
    """
    order = sorted(range(len(candidates)), key=lambda channel: len(candidates[channel]))
    for taken in _taken([candidates[channel] for channel in order]):
        by_channel = dict(zip(order, taken, strict=True))
        yield tuple(by_channel[channel] for channel in range(len(candidates)))


def _taken(
    candidates: Sequence[Sequence[Candidate]], taken: tuple[SeriesInstanceUID, ...] = ()
) -> Iterator[tuple[SeriesInstanceUID, ...]]:
    if len(taken) == len(candidates):
        yield taken
        return
    for candidate in candidates[len(taken)]:
        if candidate.series_instance_uid not in taken:
            yield from _taken(candidates, (*taken, candidate.series_instance_uid))
