"""What a Segmentation holds: the Segments to declare, their frames in order, and in which object.

A Segment without a voxel is not declared: a declared one without a frame hangs a viewer (OHIF
#3991). Labels without any voxel become one empty frame for each Segment of the Model: "looked, and
found nothing" is a result, and a Segmentation has at least one frame.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from node.core.anatomy import Segment
from node.core.errors import Fatal
from node.core.result import SegForm, SegType
from node.dicom.results.answer import Answer

Kept = NDArray[np.bool_]  # (segment, slice)


@dataclass(frozen=True)
class Frame:
    """One plane of one Segment, or of all of them. empty: it has no voxel.

    segment_number: in the Segmentation, 1 to n; None in a LABELMAP, whose frames show all.
    """

    segment_number: int | None
    label: int
    slice_index: int
    empty: bool


@dataclass(frozen=True)
class Part:
    """One object of a Segmentation: its Segments, numbered from 1, and its frames.

    Frames go by segment, then plane. warnings: where it is not what its form asks for.
    """

    number: int
    segments: tuple[Segment, ...]
    frames: tuple[Frame, ...]
    warnings: tuple[str, ...] = ()


def parts_of(answer: Answer, form: SegForm) -> list[Part]:
    """The objects of a Segmentation; one, unless it has more frames than its form allows.

    It is split by groups of whole Segments. Raises Fatal for an unknown label.
    """
    segments, found = _segments(answer)
    filled = _with_probability(answer, segments) if form.type is SegType.FRACTIONAL else found
    kept = _kept(filled, form)
    return [
        Part(
            number,
            tuple(segments[place] for place in group),
            tuple(_frames([segments[place] for place in group], filled[group], kept[group], form)),
            tuple(_warnings(segments[group[0]], _count(kept[group], form), form)),
        )
        for number, group in enumerate(_groups(kept, form), start=1)
    ]


def _segments(answer: Answer) -> tuple[list[Segment], Kept]:
    """Those to declare, and on which slices the label map has them. Raises Fatal."""
    model, present = answer.model, _labels_by_slice(answer.label_map.array)
    labels = set(np.flatnonzero(present.any(axis=0)).tolist()) - {0}
    unknown = sorted(labels - {segment.number for segment in model.segments})
    if unknown:
        raise Fatal(f"label {unknown[0]} is in the label map, but {model.name} has no such Segment")
    if not model.segments:
        raise Fatal(f"{model.name} has no Segments: there is nothing to encode")
    segments = [s for s in model.segments if not labels or s.number in labels]
    none = np.zeros(len(present), np.bool_)
    return segments, np.stack([present[:, s.number] if labels else none for s in segments])


def _labels_by_slice(array: NDArray[np.uint8] | NDArray[np.uint16]) -> NDArray[np.bool_]:
    """(slice, label): where a label has a voxel. Each slice is looked at once."""
    count = int(array.max()) + 1
    return np.stack([np.bincount(plane.ravel(), minlength=count) > 0 for plane in array])


def _with_probability(answer: Answer, segments: Sequence[Segment]) -> Kept:
    """On which slices a Segment is more than impossible. Raises Fatal."""
    if answer.probabilities is None:
        raise Fatal(
            f"{answer.model.name} gave labels without probabilities, and a fractional Segmentation "
            "shows those: ask for a binary or labelmap one, or set probabilities of the Answer"
        )
    shape, filled = answer.label_map.array.shape, []
    for segment in segments:
        of_segment = answer.probabilities.get(segment.number)
        if of_segment is None or of_segment.shape != shape or of_segment.dtype != np.uint8:
            raise Fatal(
                f"the probabilities of label {segment.number} ({segment.label}) are absent, or not "
                f"bytes of {shape} (slice, row, column)"
            )
        filled.append([plane.any() for plane in of_segment])
    return np.array(filled, np.bool_)


def _kept(filled: Kept, form: SegForm) -> Kept:
    """Which planes become frames: all, or the filled ones; the middle one where none is."""
    if form.empty_frames:
        return np.ones_like(filled)
    kept = filled.copy()
    kept[~filled.any(axis=1), filled.shape[1] // 2] = True
    return kept


def _groups(kept: Kept, form: SegForm) -> list[list[int]]:
    """Segments that go into one object each, in order; as many as its frame limit allows."""
    groups: list[list[int]] = [[]]
    for place in range(len(kept)):
        full = form.max_frames and _count(kept[[*groups[-1], place]], form) > form.max_frames
        if full and groups[-1]:
            groups.append([])
        groups[-1].append(place)
    return groups


def _count(kept: Kept, form: SegForm) -> int:
    """Frames of an object that holds these Segments."""
    if form.type is SegType.LABELMAP:
        return int(np.count_nonzero(kept.any(axis=0)))
    return int(np.count_nonzero(kept))


def _frames(
    segments: Sequence[Segment], filled: Kept, kept: Kept, form: SegForm
) -> Iterator[Frame]:
    if form.type is SegType.LABELMAP:
        any_filled: NDArray[np.bool_] = np.logical_or.reduce(filled)
        for index in np.flatnonzero(kept.any(axis=0)).tolist():
            yield Frame(None, 0, index, not any_filled[index])
        return
    for number, segment in enumerate(segments, start=1):
        for index in np.flatnonzero(kept[number - 1]).tolist():
            yield Frame(number, segment.number, index, not filled[number - 1, index])


def _warnings(first: Segment, count: int, form: SegForm) -> Iterator[str]:
    if form.max_frames and count > form.max_frames:
        yield (
            f'the Segment "{first.label}" alone has {count} frames, more than max_frames = '
            f"{form.max_frames}: a viewer may refuse it"
        )
