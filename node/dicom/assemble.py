"""From the slices of one Series to a Volume, or a sentence why not.

Classic single-frame CT, MR and PET with one regular grid: parallel slices, equal spacing, each
position once. All else is refused here rather than guessed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.errors import BytesLengthException
from pydicom.uid import CTImageStorage, MRImageStorage, PositronEmissionTomographyImageStorage

from node.core.errors import SeriesRejected
from node.core.model import InputRules
from node.core.volume import Affine, Volume
from node.dicom.series import SourceSeries

VOLUME_SOP_CLASSES = (CTImageStorage, MRImageStorage, PositronEmissionTomographyImageStorage)
SAME_POSITION_MM = 0.01
SPACING_TOLERANCE = 0.01  # of the spacing …
SPACING_TOLERANCE_MM = 0.02  # … or this, where headers are rounded
COSINE_TOLERANCE = 1e-3

Vector = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Slice:
    """One Instance with its place. position: centre of the first voxel, LPS mm (PS3.3 C.7.6.2)."""

    instance: Dataset
    position: Vector
    along_normal: float

    def __str__(self) -> str:
        return _name(self.instance)


def admit(series: SourceSeries, rules: InputRules) -> None:
    """Whether this Series is what the Model accepts. Raises SeriesRejected."""
    modalities = {str(instance.get("Modality", "")) for instance in series.instances}
    if rules.modalities and not modalities <= set(rules.modalities):
        raise SeriesRejected(
            f"the Model takes {' or '.join(rules.modalities)}; "
            f"this Series is {', '.join(sorted(modalities)) or 'of no modality'}"
        )
    if len(series.instances) < rules.min_slices:
        raise SeriesRejected(
            f"the Series has {len(series.instances)} slices; "
            f"the Model needs at least {rules.min_slices}"
        )


def assemble(series: SourceSeries, rules: InputRules) -> Volume:
    """The Volume of a Series: slices sorted along their normal, rescaled, float32.

    Returns an array (slice, row, column) with its affine to LPS mm (PS3.3 C.7.6.2.1.1).
    Raises SeriesRejected naming the slice or the numbers.
    """
    try:
        return _assemble(series, rules)
    except (
        ArithmeticError,
        AttributeError,
        BytesLengthException,
        LookupError,
        TypeError,
        ValueError,
    ) as error:
        # An element with an odd VM or a value that is no number: pydicom raises these late.
        raise SeriesRejected(f"a header of the Series makes no sense: {error}") from error


def _assemble(series: SourceSeries, rules: InputRules) -> Volume:
    for instance in series.instances:
        _require_single_frame_image(instance)
    _require_one_grid(series.instances)
    slices = _sorted_slices(series.instances)
    _require_distinct_positions(slices)
    affine = _affine(slices)
    _require_regular(slices, affine)
    _require_spacing(affine, rules)
    _require_extent(slices, affine, rules)
    return Volume(_voxels(slices), affine, _frame_of_reference_uid(slices))


def _name(instance: Dataset) -> str:
    number = instance.get("InstanceNumber")
    uid = instance.get("SOPInstanceUID", "without UID")
    return f"slice {number} ({uid})" if number is not None else f"slice ({uid})"


def _require_single_frame_image(instance: Dataset) -> None:
    if instance.SOPClassUID not in VOLUME_SOP_CLASSES:
        raise SeriesRejected(
            f"{_name(instance)} is {instance.SOPClassUID.name}; only single-frame CT, MR and "
            "PET Image Storage make a volume"
        )
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        if not instance.get(keyword):
            raise SeriesRejected(f"{_name(instance)} has no {keyword}")
    if not instance.get("PixelData"):
        raise SeriesRejected(f"{_name(instance)} has no Pixel Data")
    if instance.get("SamplesPerPixel", 1) != 1:
        raise SeriesRejected(f"{_name(instance)} is a colour image")


def _require_one_grid(instances: Sequence[Dataset]) -> None:
    first = instances[0]
    for other in instances[1:]:
        _require_same_orientation(first, other)
        for keyword in ("PatientID", "StudyInstanceUID", "SOPClassUID"):
            if first.get(keyword) != other.get(keyword):  # no values: no patient in a message
                raise SeriesRejected(f"{keyword} of {_name(other)} is not that of {_name(first)}")
        for keyword in ("Rows", "Columns", "PixelSpacing", "FrameOfReferenceUID"):
            mine, theirs = first.get(keyword), other.get(keyword)
            if mine != theirs:
                raise SeriesRejected(
                    f"{keyword} differs within the Series: {mine} in {_name(first)}, "
                    f"{theirs} in {_name(other)}"
                )


def _require_same_orientation(first: Dataset, other: Dataset) -> None:
    mine = np.asarray(first.ImageOrientationPatient, float)
    theirs = np.asarray(other.ImageOrientationPatient, float)
    if mine.shape != theirs.shape or not np.allclose(mine, theirs, atol=COSINE_TOLERANCE):
        raise SeriesRejected(
            f"the Series mixes orientations: {_numbers(mine)} in {_name(first)}, "
            f"{_numbers(theirs)} in {_name(other)}"
        )


def _cosines(instance: Dataset) -> tuple[Vector, Vector]:
    """Directions in which the column index and the row index grow, LPS, unit length."""
    cosines = np.asarray(instance.ImageOrientationPatient, float)
    along_row, along_column = cosines[:3], cosines[3:]
    unit = np.allclose(np.linalg.norm(cosines.reshape(2, 3), axis=1), 1, atol=COSINE_TOLERANCE)
    if not unit or abs(float(along_row @ along_column)) > COSINE_TOLERANCE:
        raise SeriesRejected(
            f"ImageOrientationPatient of {_name(instance)} is not a pair of perpendicular "
            f"unit vectors: {_numbers(cosines)}"
        )
    return along_row, along_column


def _sorted_slices(instances: Sequence[Dataset]) -> list[_Slice]:
    along_row, along_column = _cosines(instances[0])
    normal = np.cross(along_row, along_column)
    slices = []
    for instance in instances:
        position = np.asarray(instance.ImagePositionPatient, float)
        if position.shape != (3,) or not np.isfinite(position).all():
            raise SeriesRejected(
                f"ImagePositionPatient of {_name(instance)} is not a point: {position}"
            )
        slices.append(_Slice(instance, position, float(position @ normal)))
    return sorted(slices, key=lambda one: one.along_normal)


def _require_distinct_positions(slices: Sequence[_Slice]) -> None:
    for one, next_one in pairwise(slices):
        if next_one.along_normal - one.along_normal < SAME_POSITION_MM:
            raise SeriesRejected(
                f"{one} and {next_one} lie at the same position, {one.along_normal:.2f} mm along "
                "the slice normal: the Series holds more than one volume, or one slice twice"
            )


def _affine(slices: Sequence[_Slice]) -> Affine:
    if len(slices) < 2:
        raise SeriesRejected("the Series has one slice; a volume needs at least two")
    first = slices[0].instance
    along_row, along_column = _cosines(first)
    row_spacing, column_spacing = (float(value) for value in first.PixelSpacing)
    if not (row_spacing > 0 and column_spacing > 0):
        raise SeriesRejected(f"PixelSpacing of {_name(first)} is not positive")
    affine = np.eye(4)
    affine[:3, 0] = (slices[-1].position - slices[0].position) / (len(slices) - 1)
    affine[:3, 1] = along_column * row_spacing
    affine[:3, 2] = along_row * column_spacing
    affine[:3, 3] = slices[0].position
    return affine


def _require_regular(slices: Sequence[_Slice], affine: Affine) -> None:
    _require_no_gap(slices)
    _require_no_tilt(affine)
    spacing = float(np.linalg.norm(affine[:3, 0]))
    tolerance = max(SPACING_TOLERANCE * spacing, SPACING_TOLERANCE_MM)
    for index, one in enumerate(slices):
        off = float(np.linalg.norm(one.position - (affine[:3, 3] + index * affine[:3, 0])))
        if off > tolerance:
            raise SeriesRejected(
                f"{one} lies {off:.2f} mm off the regular grid of {spacing:.3f} mm spacing"
            )


def _require_no_gap(slices: Sequence[_Slice]) -> None:
    gaps = np.diff([one.along_normal for one in slices])
    usual = float(np.median(gaps))
    tolerance = max(SPACING_TOLERANCE * usual, SPACING_TOLERANCE_MM)
    for index in np.flatnonzero(np.abs(gaps - usual) > tolerance)[:1]:
        missing = round(float(gaps[index]) / usual) - 1
        guess = f": {missing} slice{'s' * (missing > 1)} missing there" if missing > 0 else ""
        raise SeriesRejected(
            f"unequal spacing: {gaps[index]:.2f} mm between {slices[index]} and "
            f"{slices[index + 1]}, {usual:.2f} mm elsewhere{guess}"
        )


def _require_no_tilt(affine: Affine) -> None:
    normal = np.cross(affine[:3, 2], affine[:3, 1])
    cosine = float(affine[:3, 0] @ normal / np.linalg.norm(normal) / np.linalg.norm(affine[:3, 0]))
    degrees = float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))
    if degrees > 0.5:
        raise SeriesRejected(
            f"the slices are sheared by {degrees:.1f}° against their normal (gantry tilt)"
        )


def _require_spacing(affine: Affine, rules: InputRules) -> None:
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    low = rules.min_spacing_mm if rules.min_spacing_mm is not None else 0.0
    high = rules.max_spacing_mm if rules.max_spacing_mm is not None else np.inf
    if spacing.min() < low - 1e-6 or spacing.max() > high + 1e-6:
        raise SeriesRejected(
            f"spacing (slice, row, column) is {_numbers(spacing)} mm; "
            f"the Model takes {low:g} to {high:g} mm"
        )


def _require_extent(slices: Sequence[_Slice], affine: Affine, rules: InputRules) -> None:
    first = slices[0].instance
    counts = np.array([len(slices), int(first.Rows), int(first.Columns)])
    extent = counts * np.linalg.norm(affine[:3, :3], axis=0)
    if rules.max_extent_mm is not None and extent.max() > rules.max_extent_mm:
        raise SeriesRejected(
            f"the volume measures {_numbers(extent)} mm (slice, row, column); "
            f"the Model takes crops of at most {rules.max_extent_mm:g} mm"
        )


def _frame_of_reference_uid(slices: Sequence[_Slice]) -> str:
    uid = str(slices[0].instance.get("FrameOfReferenceUID") or "")
    if not uid:
        raise SeriesRejected(
            "the Series has no Frame of Reference UID: a result could not be laid over it"
        )
    return uid


def _voxels(slices: Sequence[_Slice]) -> NDArray[np.float32]:
    rows, columns = int(slices[0].instance.Rows), int(slices[0].instance.Columns)
    voxels = np.empty((len(slices), rows, columns), np.float32)
    for index, one in enumerate(slices):
        voxels[index] = _rescaled(one.instance, (rows, columns))
    return voxels


def _rescaled(instance: Dataset, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Modality values of one slice (PS3.3 C.11.1.1.2), float32, (row, column)."""
    try:
        stored = instance.pixel_array
    except Exception as error:  # each decoder raises its own kinds
        raise SeriesRejected(
            f"Pixel Data of {_name(instance)} cannot be decoded: {error}"
        ) from error
    if stored.shape != shape:
        raise SeriesRejected(
            f"Pixel Data of {_name(instance)} is {stored.shape}, not {shape} (rows, columns)"
        )
    slope = instance.get("RescaleSlope")
    slope = 1.0 if slope is None else float(slope)
    if slope == 0.0:
        raise SeriesRejected(f"RescaleSlope of {_name(instance)} is 0")
    intercept = float(instance.get("RescaleIntercept") or 0.0)
    return (stored * slope + intercept).astype(np.float32)


def _numbers(values: NDArray[np.float64]) -> str:
    return "(" + ", ".join(f"{value:.3g}" for value in values) + ")"
