"""From a Series to the one Volume that a Model takes, or a sentence why not.

Which of the candidate volumes of the Series that is, and whether it is one without a doubt; where
it lies; and how labels come back to the slices it was made of.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.errors import BytesLengthException
from pydicom.uid import CTImageStorage, PositronEmissionTomographyImageStorage

from node.core.errors import SeriesRejected
from node.core.model import InputRules
from node.core.volume import Affine, LabelMap, Volume
from node.dicom.planes import Plane, planes_of
from node.dicom.regular import Regular, regular_grid
from node.dicom.selection import not_selected
from node.dicom.series import SourceSeries
from node.dicom.volumes import (
    SAME_POSITION_MM,
    Candidate,
    Fault,
    continues,
    in_words,
    is_localizer,
    normal,
    positions,
    split,
    together,
)
from node.dicom.voxels import MAX_VOLUME_VOXELS, modality_frames

_RESAMPLED = (Fault.TILTED, Fault.UNEVEN)
_FAULTS_OF_SLICES = frozenset(Fault) - {Fault.NO_VOLUME}
MAX_EXTENT_MM = 5000.0  # twice the longest person: what is longer is no position of a patient
_ALWAYS_RESCALED = (CTImageStorage, PositronEmissionTomographyImageStorage)
_LISTED = 8  # candidates in a message

# What must not differ within a volume, beyond what splits one: no values in the message, as one of
# them is the patient's.
_OF_ALL = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "Units", "RescaleType")


@dataclass(frozen=True, eq=False)
class Stack:
    """A Volume with the Planes it was made of, sorted along their normal.

    regular: how the slices were resampled onto the Volume's grid; None where they lie on it.
    """

    volume: Volume
    planes: tuple[Plane, ...]
    regular: Regular | None = None

    def labels_on_planes(self, label_map: LabelMap) -> LabelMap:
        """Labels of the Volume's grid, on the slices: one slice of labels for each Plane."""
        return label_map if self.regular is None else self.regular.back(label_map)


def admit(series: SourceSeries, rules: InputRules) -> None:
    """Whether this Series is of a kind the Model accepts. Raises SeriesRejected."""
    modalities = {str(instance.get("Modality", "")) for instance in series.instances}
    if rules.modalities and not modalities <= set(rules.modalities):
        raise SeriesRejected(
            f"the Model takes {' or '.join(rules.modalities)}; "
            f"this Series is {', '.join(sorted(modalities)) or 'of no modality'}"
        )


def assemble(series: SourceSeries, rules: InputRules) -> Volume:
    """The Volume of a Series: as `stack`, without what leads back to its slices."""
    return stack(series, rules).volume


def stack(series: SourceSeries, rules: InputRules) -> Stack:
    """The one candidate volume of a Series that the Model takes, rescaled, float32.

    The array is (slice, row, column) with its affine to LPS mm (PS3.3 C.7.6.2.1.1).
    Raises SeriesRejected naming the slice or the numbers; where there are several candidates, each.
    """
    try:
        return _stack(series, rules)
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


def _stack(series: SourceSeries, rules: InputRules) -> Stack:
    planes = [plane for instance in series.instances for plane in planes_of(instance)]
    candidates = split(planes)
    chosen = _chosen(candidates, rules)
    _require_none_astray(chosen, candidates)
    _require_none_cut_off(chosen, candidates, rules)
    _require_no_rival(chosen, candidates, rules)
    by_uid = _by_uid(series, chosen)
    frame = _frame_of_reference_uid(chosen)
    affine = _affine(chosen.planes)
    regular = None
    if chosen.kind is not None:
        grid = regular_grid(chosen.planes, affine)
        assert isinstance(grid, Regular)  # or it would not have been chosen
        regular = grid
    voxels = _voxels(chosen.planes, by_uid)
    _require_rescaled(chosen, by_uid)
    volume = regular.resampled(voxels, frame) if regular else Volume(voxels, affine, frame)
    return Stack(volume, chosen.planes, regular)


# --- which candidate


def _chosen(candidates: Sequence[Candidate], rules: InputRules) -> Candidate:
    """The one that the Model takes. Raises SeriesRejected where it is none or several."""
    refusals = [_refusal(candidate, rules) for candidate in candidates]
    fitting = [one for one, refusal in zip(candidates, refusals, strict=True) if refusal is None]
    if len(fitting) == 1:
        return fitting[0]
    if not candidates:
        raise SeriesRejected("the Series has no images")
    if len(candidates) == 1:
        raise SeriesRejected(str(refusals[0]))
    if not fitting:
        found = _listed(candidates, [refusal or "" for refusal in refusals])
        raise SeriesRejected(
            f"the Series holds {len(candidates)} candidate volumes, and the Model takes none of "
            f"them: {found}"
        )
    raise SeriesRejected(
        f"the Series holds {len(fitting)} candidate volumes that the Model takes, and nothing in "
        f"its [input] rules tells which one it wants: {_listed(fitting, [''] * len(fitting))}"
    )


def _refusal(candidate: Candidate, rules: InputRules) -> str | None:
    """Why a Model does not take this candidate."""
    if unselected := not_selected(candidate.planes, rules.select):
        return unselected
    affine, shape = np.eye(4), (0, 0, 0)
    if candidate.kind in _RESAMPLED and rules.resample:
        grid = regular_grid(candidate.planes, _affine(candidate.planes))
        if isinstance(grid, str):
            return f"{candidate.fault}; it cannot be resampled: {grid}"
        affine, shape = grid.affine, grid.shape
    elif candidate.fault:
        hint = "; [input] resample = true in model.toml would allow it"
        return candidate.fault + hint * (candidate.kind is Fault.TILTED)
    else:
        first = candidate.planes[0]
        affine = _affine(candidate.planes)
        shape = (len(candidate.planes), first.rows or 0, first.columns or 0)
    if len(candidate.planes) < rules.min_slices:
        return (
            f"the Series has {len(candidate.planes)} slices; "
            f"the Model needs at least {rules.min_slices}"
        )
    if int(np.prod(np.asarray(shape, object))) > MAX_VOLUME_VOXELS:
        return f"it claims {shape} voxels; {MAX_VOLUME_VOXELS} are assembled at most"
    return _spacing_refusal(affine, rules) or _extent_refusal(shape, affine, rules)


def _spacing_refusal(affine: Affine, rules: InputRules) -> str | None:
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    low = rules.min_spacing_mm if rules.min_spacing_mm is not None else 0.0
    high = rules.max_spacing_mm if rules.max_spacing_mm is not None else np.inf
    if spacing.min() < low - 1e-6 or spacing.max() > high + 1e-6:
        return (
            f"spacing (slice, row, column) is {in_words(spacing)} mm; "
            f"the Model takes {low:g} to {high:g} mm"
        )
    return None


def _extent_refusal(shape: tuple[int, int, int], affine: Affine, rules: InputRules) -> str | None:
    extent = np.asarray(shape) * np.linalg.norm(affine[:3, :3], axis=0)
    if extent.max() > MAX_EXTENT_MM:
        return (
            f"the volume measures {in_words(extent)} mm (slice, row, column); nobody is longer "
            f"than {MAX_EXTENT_MM:g} mm"
        )
    if rules.max_extent_mm is not None and extent.max() > rules.max_extent_mm:
        return (
            f"the volume measures {in_words(extent)} mm (slice, row, column); "
            f"the Model takes crops of at most {rules.max_extent_mm:g} mm"
        )
    return None


def _listed(candidates: Sequence[Candidate], refusals: Sequence[str]) -> str:
    """Each candidate with its count, spacing and what tells it from the others."""
    told = []
    for number, (candidate, refusal) in enumerate(zip(candidates, refusals, strict=True), start=1):
        count = len(candidate.planes)
        words = f"({number}) {count} slice{'s' * (count != 1)}"
        if candidate.fault is None:
            words += f" {np.linalg.norm(_affine(candidate.planes)[:3, 0]):.2f} mm apart"
        words += f", {candidate.why}" * bool(candidate.why) + f": {refusal}" * bool(refusal)
        told.append(words)
    more = len(told) - _LISTED
    return "; ".join(told[:_LISTED]) + f"; and {more} more" * (more > 0)


# --- whether it is one without a doubt


def _require_none_astray(chosen: Candidate, candidates: Sequence[Candidate]) -> None:
    """A slice that does not say where it lies may belong to the volume."""
    first = chosen.planes[0]
    for other in candidates:
        lost = other.planes[0]
        same_class = lost.sop_class_uid in ("", first.sop_class_uid)
        same_matrix = lost.rows is None or (lost.rows, lost.columns) == (first.rows, first.columns)
        nowhere = other.kind is Fault.NO_PLACE or not lost.sop_class_uid
        if nowhere and same_class and same_matrix:
            raise SeriesRejected(f"{other.fault}: it may belong to the volume")


def _require_none_cut_off(
    chosen: Candidate, candidates: Sequence[Candidate], rules: InputRules
) -> None:
    """A slice at an end that some header tells from the others: the volume would lack it."""
    first = chosen.planes[0]
    for other in candidates:
        if other.planes[0].sop_class_uid != first.sop_class_uid or is_localizer(other.planes[0]):
            continue
        if together(first, other.planes[0]) or not_selected(other.planes, rules.select):
            continue
        for plane in other.planes:
            if continues(plane, chosen.planes):
                raise SeriesRejected(
                    f"{plane} ({other.why}) lies where the next slice of the volume belongs, which "
                    f"has {chosen.why}; it may be a part of it"
                )


def _require_no_rival(
    chosen: Candidate, candidates: Sequence[Candidate], rules: InputRules
) -> None:
    """A fault must not choose: without it, the other might be the one that is wanted."""
    for other in candidates:
        if other is chosen or is_localizer(other.planes[0]):
            continue
        if other.kind not in _FAULTS_OF_SLICES:
            continue
        if not_selected(other.planes, rules.select):
            continue
        least = max(rules.min_slices, 2)
        if together(chosen.planes[0], other.planes[0]) or _places(other) >= least:
            raise SeriesRejected(
                "the Series holds several candidate volumes, and only a fault of the other "
                f"candidate would choose: {_listed([chosen, other], ['', other.fault or ''])}"
            )


def _places(candidate: Candidate) -> int:
    """At how many positions along the normal it has slices; at any, where they do not say."""
    if candidate.kind is Fault.NO_PLACE:
        return len(candidate.planes)
    along = positions(candidate.planes) @ normal(candidate.planes[0])
    return 1 + int((np.diff(along) >= SAME_POSITION_MM).sum())


def _by_uid(series: SourceSeries, chosen: Candidate) -> Mapping[str, Dataset]:
    """The Instances of the chosen Planes, of one patient, study and unit."""
    wanted = {plane.sop_instance_uid for plane in chosen.planes}
    names = {plane.sop_instance_uid: str(plane) for plane in reversed(chosen.planes)}
    by_uid: dict[str, Dataset] = {}
    for instance in series.instances:
        uid = str(instance.get("SOPInstanceUID") or "")
        if uid not in wanted:
            continue
        if not uid or uid in by_uid:
            raise SeriesRejected(f"{names[uid]} has no SOP Instance UID of its own")
        by_uid[uid] = instance
    first_uid = chosen.planes[0].sop_instance_uid
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID"):
        if not by_uid[first_uid].get(keyword):
            raise SeriesRejected(f"{names[first_uid]} has no {keyword}: a result needs it")
    for keyword in _OF_ALL:
        expected = _said(by_uid[first_uid], keyword)
        for uid, instance in by_uid.items():
            if _said(instance, keyword) != expected:  # no values: no patient in a message
                raise SeriesRejected(f"{keyword} of {names[uid]} is not that of {names[first_uid]}")
    return by_uid


def _said(instance: Dataset, keyword: str) -> object:
    value = instance.get(keyword)
    return "" if value is None else value


def _require_rescaled(chosen: Candidate, by_uid: Mapping[str, Dataset]) -> None:
    """Values as stored beside rescaled ones are of two units; those of a CT without both of none.

    Type 1 in CT and PET (PS3.3 C.8.2.1, C.8.9.4).
    """
    for keyword in ("RescaleSlope", "RescaleIntercept"):
        stated = [by_uid[p.sop_instance_uid].get(keyword) is not None for p in chosen.planes]
        if not all(stated) and chosen.planes[0].sop_class_uid in _ALWAYS_RESCALED:
            lacking = chosen.planes[stated.index(False)]
            raise SeriesRejected(f"{lacking} has no {keyword}: its values are not known")
        if any(stated) and not all(stated):
            stating, other = chosen.planes[stated.index(True)], chosen.planes[stated.index(False)]
            raise SeriesRejected(f"{stating} states a {keyword}, {other} does not")


def _frame_of_reference_uid(chosen: Candidate) -> str:
    uid = chosen.planes[0].frame_of_reference_uid
    if not uid:
        raise SeriesRejected(
            "the Series has no Frame of Reference UID: a result could not be laid over it"
        )
    return uid


# --- where it lies, and what is in it


def _affine(planes: Sequence[Plane]) -> Affine:
    """(slice, row, column, 1) → LPS mm of sorted Planes; the mean step where they are not even."""
    first, points = planes[0], positions(planes)
    cosines = np.asarray(first.orientation, float).reshape(2, 3)
    row_spacing, column_spacing = first.pixel_spacing or (0.0, 0.0)
    steps = len(planes) - 1
    affine = np.eye(4)
    affine[:3, 0] = (points[-1] - points[0]) / steps if steps else normal(first)
    affine[:3, 1] = cosines[1] * row_spacing
    affine[:3, 2] = cosines[0] * column_spacing
    affine[:3, 3] = points[0]
    return affine


def _voxels(planes: Sequence[Plane], by_uid: Mapping[str, Dataset]) -> NDArray[np.float32]:
    """Modality values, one frame at a time: only the Volume itself is held in full."""
    first = planes[0]
    voxels = np.empty((len(planes), first.rows or 0, first.columns or 0), np.float32)
    of_instance: dict[str, list[int]] = defaultdict(list)
    for index, plane in enumerate(planes):
        of_instance[plane.sop_instance_uid].append(index)
    for uid, indices in of_instance.items():
        indices.sort(key=lambda index: planes[index].frame or 1)
        frames = [(planes[index].frame or 1) - 1 for index in indices]
        name = str(planes[indices[0]]) if len(indices) == 1 else f"Instance {uid}"
        for index, values in zip(indices, modality_frames(by_uid[uid], frames, name), strict=True):
            voxels[index] = values
    return voxels
