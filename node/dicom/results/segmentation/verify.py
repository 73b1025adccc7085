"""The gate before delivery: Segmentations are decoded again and compared with what was answered.

Every voxel must agree, every frame must lie within 0.01 mm of the source plane it refers to, and
what the form promises a viewer must be so. Nothing here is shared with the encoder.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from struct import error as struct_error

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from node.core.anatomy import Segment
from node.core.result import SegForm, SegType
from node.core.volume import LabelMap
from node.dicom.results.answer import Answer, ResultObject
from node.dicom.results.segmentation.decoded import (
    Frame,
    Origin,
    Vector,
    opened,
    wrong,
)
from node.dicom.results.segmentation.promises import (
    Place,
    require_form,
    require_identity,
    require_segments,
)
from node.dicom.rounding import off_grid_mm
from node.dicom.volumes import tolerance_mm

POSITION_TOLERANCE_MM = 0.01


def verify_segmentations(objects: Sequence[ResultObject], answer: Answer, form: SegForm) -> None:
    """Whether the objects together say exactly what was answered, on the planes of the source.

    A FRACTIONAL Segmentation is compared with the probabilities, others with the label map.
    Raises Fatal saying which Segment, frame or voxel is wrong: a bug of ours.
    """
    try:
        gate = _Gate(answer, form)
        for number, one in enumerate(objects, start=1):
            gate.read(one, number)
        gate.close()
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, struct_error) as error:
        raise wrong(f"it lacks what a Segmentation must have: {error!r}") from error


@dataclass(eq=False)
class _Gate:
    """What the objects have shown so far. painted: labels, in the label map's grid.

    shown: of a FRACTIONAL one, the frames that were, by label and slice. declared: the Segments.
    slices: of planes that were found once.
    """

    answer: Answer
    form: SegForm
    painted: NDArray[np.generic] = field(init=False)
    shown: set[tuple[int, int]] = field(default_factory=set)
    declared: list[Segment] = field(default_factory=list)
    slices: dict[tuple[bytes, tuple[Origin, ...]], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.grid = self.answer.label_map
        fractional = self.form.type is SegType.FRACTIONAL
        self.painted = np.zeros(
            (0,) if fractional else self.grid.array.shape, self.grid.array.dtype
        )
        self.positions = _source_positions(self.answer)
        self.allowed_mm = _allowed_mm(self.grid, self.positions)
        self.present = _present(self.grid)

    def read(self, one: ResultObject, number: int) -> None:
        """One object. Raises Fatal."""
        decoded = opened(one.pieces)
        header = decoded.header
        require_identity(header, one.ref, self.answer, self.form, number, self.positions)
        left = [s for s in self._expected() if s not in self.declared]
        segments = require_segments(header, left, self.answer, self.form)
        self.declared += segments.values()
        _require_grid(header, self.grid)
        shown: dict[Place, bool] = {}
        for frame in decoded.frames():
            place = self._place(frame, segments)
            if place in shown:
                raise wrong(f"{frame} is on slice {place[1]}, and so is one before it")
            self._compare(frame, place[1], segments)
            shown[place] = not frame.voxels.any()
        require_form(header, shown, segments, len(self.grid.array), self.form)

    def close(self) -> None:
        """All objects were read: is anything missing? Raises Fatal."""
        expected = self._expected()
        if self.declared != expected:
            raise wrong(f"it has {len(self.declared)} Segments, not {len(expected)}")
        if self.form.type is SegType.FRACTIONAL:
            self._require_nothing_else()
        else:
            _require_same(self.painted, self.grid.array, "label map")

    def _expected(self) -> list[Segment]:
        """The Model's Segments that have a voxel, or all where there is none. Raises Fatal."""
        unknown = self.present - {segment.number for segment in self.answer.model.segments}
        if unknown:
            raise wrong(
                f"label {min(unknown)} of the label map is no Segment of {self.answer.model.name}"
            )
        segments = self.answer.model.segments
        return [s for s in segments if not self.present or s.number in self.present]

    def _place(self, frame: Frame, segments: Mapping[int, Segment]) -> Place:
        """Of which Segment and slice a frame is. Raises Fatal where there is no such."""
        where = frame.position.tobytes(), frame.sources
        if where not in self.slices:
            _require_on_source(frame, self.positions)
            self.slices[where] = _slice_index(frame, self.grid, self.allowed_mm)
        index, number = self.slices[where], frame.segment_number
        if number not in segments and self.form.type is not SegType.LABELMAP:
            raise wrong(f"{frame} on slice {index} is of an unknown Segment")
        return number, index

    def _compare(self, frame: Frame, index: int, segments: Mapping[int, Segment]) -> None:
        """Paints the frame, or holds it against the probabilities. Raises Fatal."""
        number = frame.segment_number
        if self.form.type is SegType.LABELMAP:
            self._paint_all(frame, index, segments)
        elif self.form.type is SegType.FRACTIONAL:
            self._require_probable(frame, segments[number].number, index)
        else:
            _paint(self.painted[index], frame, frame.voxels, segments[number].number)

    def _paint_all(self, frame: Frame, index: int, segments: Mapping[int, Segment]) -> None:
        """A frame of a LABELMAP, whose values are Segment Numbers."""
        largest = int(frame.voxels.max())
        if largest > len(segments):
            raise wrong(f"{frame} on slice {index} shows the unknown Segment {largest}")
        labels = np.array([0, *(s.number for s in segments.values())], self.painted.dtype)
        _paint(self.painted[index], frame, frame.voxels, labels[frame.voxels])

    def _require_probable(self, frame: Frame, label: int, index: int) -> None:
        """A frame of a FRACTIONAL Segmentation shows exactly the probabilities of its label."""
        assert self.answer.probabilities is not None  # or there was nothing to encode
        expected = self.answer.probabilities[label][index]
        _require_same(frame.voxels, expected, f"probabilities of label {label} on slice {index}")
        self.shown.add((label, index))

    def _require_nothing_else(self) -> None:
        """Where there is no frame there is no probability."""
        assert self.answer.probabilities is not None
        for segment in self.declared:
            for index, plane in enumerate(self.answer.probabilities[segment.number]):
                if (segment.number, index) not in self.shown and plane.any():
                    raise wrong(f"slice {index} of {segment.label} has probabilities and no frame")


def _present(grid: LabelMap) -> set[int]:
    """Labels that have a voxel."""
    found: set[int] = set()
    for plane in grid.array:
        found.update(np.flatnonzero(np.bincount(plane.ravel())).tolist())
    return found - {0}


def _paint(
    plane: NDArray[np.generic],
    frame: Frame,
    voxels: NDArray[np.generic],
    label: int | NDArray[np.generic],
) -> None:
    """Labels where the frame has voxels, on rows that have any: most are empty."""
    rows = np.flatnonzero(voxels.any(axis=1))
    if not rows.size:
        return
    some = slice(int(rows[0]), int(rows[-1]) + 1)
    mask = voxels[some].astype(np.bool_)
    if np.logical_and(plane[some], mask).any():
        raise wrong(f"{frame} overlaps a frame before it")
    np.copyto(plane[some], label if isinstance(label, int) else label[some], where=mask)


def _require_same(found: NDArray[np.generic], expected: NDArray[np.generic], sentence: str) -> None:
    """sentence: what they are; the number of voxels that differ and the first follow it."""
    if np.array_equal(found, expected):
        return
    differing = np.argwhere(found != expected)
    at = tuple(int(index) for index in differing[0])
    axes = ", ".join(("slice", "row", "column")[-len(at) :])
    raise wrong(
        f"{len(differing)} voxels differ from the {sentence}; the first is ({axes}) {at}: "
        f"{found[at]} in the Segmentation, {expected[at]} in the answer"
    )


def _source_positions(answer: Answer) -> dict[Origin, Vector]:
    """Where each plane that was segmented lies, LPS mm, as the header of its source states it."""
    wanted = {(plane.sop_instance_uid, plane.frame) for plane in answer.planes}
    positions = {}
    for instance in answer.source.instances:
        for origin, place in _places(instance):
            if origin in wanted:
                positions[origin] = np.asarray(place.ImagePositionPatient, float)
    return positions


def _places(instance: Dataset) -> Iterator[tuple[Origin, Dataset]]:
    """What states the position of each plane of an Instance."""
    uid = str(instance.SOPInstanceUID)
    groups = instance.get("PerFrameFunctionalGroupsSequence")
    if groups is None:
        yield (uid, None), instance
        return
    shared = (instance.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    for number, own in enumerate(groups, start=1):
        where = own if "PlanePositionSequence" in own else shared
        if "PlanePositionSequence" in where:
            yield (uid, number), where.PlanePositionSequence[0]


def _require_grid(header: Dataset, grid: LabelMap) -> None:
    """One shared orientation and spacing that carry every voxel of a plane to its place, mm."""
    if (header.Rows, header.Columns) != grid.array.shape[1:]:
        raise wrong(f"its planes are {header.Rows} × {header.Columns}")
    shared = header.SharedFunctionalGroupsSequence[0]
    measures = shared.PixelMeasuresSequence[0]
    cosines = np.asarray(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    row_spacing, column_spacing = (float(value) for value in measures.PixelSpacing)
    slice_axis = grid.affine[:3, 0]
    along_slices = slice_axis  # of slices that have places of their own each frame is checked
    if grid.positions is None:
        unit = slice_axis / np.linalg.norm(slice_axis)
        along_slices = unit * float(measures.SpacingBetweenSlices)
    steps = np.stack([along_slices, cosines[3:] * row_spacing, cosines[:3] * column_spacing], 1)
    counts = np.maximum(np.asarray(grid.array.shape) - 1, 1)
    off = np.linalg.norm((steps - grid.affine[:3, :3]) * counts, axis=0)
    for axis, distance in zip(("slices", "rows", "columns"), off, strict=True):
        if not distance <= POSITION_TOLERANCE_MM:
            raise wrong(
                f"its orientation or spacing puts the last of the {axis} {distance:.3f} mm off"
            )


def _require_on_source(frame: Frame, positions: Mapping[Origin, Vector]) -> None:
    if not frame.sources:
        raise wrong(f"{frame} does not say which Instance it was derived from")
    for origin in frame.sources:
        uid, number = origin
        name = uid if number is None else f"frame {number} of {uid}"
        if origin not in positions:
            raise wrong(f"{frame} refers to {name}, which is not in the source Series")
        off = float(np.linalg.norm(frame.position - positions[origin]))
        if not off <= POSITION_TOLERANCE_MM:
            raise wrong(f"{frame} lies {off:.3f} mm off {name}, from which it was derived")


def _allowed_mm(grid: LabelMap, positions: Mapping[Origin, Vector]) -> float:
    """As far off its slice of the label map as a source slice may lie; more where it is rounded."""
    if grid.positions is not None or not positions:
        return POSITION_TOLERANCE_MM
    step = grid.affine[:3, 0]
    spacing = float(np.linalg.norm(step))
    points = np.array(sorted(positions.values(), key=lambda one: float(one @ step)))
    return max(tolerance_mm(spacing), off_grid_mm(points, step / spacing))


def _slice_index(frame: Frame, grid: LabelMap, allowed: float) -> int:
    """The slice of the label map where the frame lies."""
    off = np.linalg.norm(grid.slice_positions - frame.position, axis=1)
    index = int(np.argmin(off))
    if not off[index] <= allowed:
        raise wrong(f"{frame} lies {off[index]:.3f} mm off slice {index} of the label map")
    return index
