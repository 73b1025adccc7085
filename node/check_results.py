"""Settings of result objects that have no effect, for `segnode check`."""

from collections.abc import Iterator

from node.configured.peers import gets_nothing
from node.core.config import Config
from node.core.wants import NO_SEGMENTATION
from node.finding import Finding

_OF_A_SEGMENTATION = ("empty_frames", "max_frames", "compression")


def without_effect(config: Config) -> Iterator[Finding]:
    """What a Peer's results say and nobody notices: they may be a slip."""
    for name in gets_nothing(config):
        sentence = (
            "a route sends to it, and it gets nothing: its results leave out every object; let it "
            "have one, or take it out of send_to"
        )
        yield Finding("note", f"peer {name}", sentence)
    for name, peer in config.peers.items():
        if peer.results.segmentation != NO_SEGMENTATION:
            continue
        idle = [key for key in _OF_A_SEGMENTATION if getattr(peer.results, key) is not None]
        if idle:
            sentence = f'without effect, as segmentation = "none": {", ".join(idle)}'
            yield Finding("note", f"peer {name}", f"its results: {sentence}")
