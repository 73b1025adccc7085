"""(d) What the headers themselves say of how many exist."""

from collections.abc import Sequence

from node.dicom.closing.counts import AHEAD
from node.dicom.closing.evidence import Facts, Finding, Instance
from node.dicom.planes import Plane


def images_in_acquisition(planes: Sequence[Plane]) -> Finding | None:
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


def concatenation(images: Sequence[Instance], settled: bool) -> Finding | None:
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


def one_object(instances: Sequence[Instance], settled: bool) -> Finding | None:
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


def stands_alone(facts: Facts) -> bool:
    """Whether settling makes a proof of what is here."""
    images = [one for one in facts.instances if one.planes]
    alone = (one_object(facts.instances, True), concatenation(images, True))
    return bool(images) and any(one is not None and one.holds is True for one in alone)
