"""Which volumes a Series may hold: its Planes split into candidates, each with a reason.

First by what can never share a volume: SOP Class, localizer, derived image, Frame of Reference,
matrix, pixel spacing, orientation. Then, only where positions repeat, by the traits that make them
distinct: echoes, phases, b-values, energies. Pure; needs no pixels.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import UID

from node.dicom.planes import MAX_FRAMES, TRAITS, VOLUME_SOP_CLASSES, Plane
from node.dicom.rounding import off_grid_mm, rounding_mm

SAME_POSITION_MM: Final = 0.01
SPACING_TOLERANCE: Final = 0.01  # of the spacing …
SPACING_TOLERANCE_MM: Final = 0.02  # … or this, where headers are rounded
COSINE_TOLERANCE: Final = 1e-3
LARGEST_TILT_DEGREES: Final = 0.5

_SAME_PIXEL_SPACING_MM = 1e-4
_MAX_ORIENTATIONS = 100
_MAX_PARTED = 10_000  # Planes; more at repeated positions are left together, and are refused
_MAX_DEPTH = 4  # traits that split one after another: echo, phase, direction, complex component
_NEARLY_PARALLEL = 0.05  # of a cosine
_IN_PLANE_MM = 1.0  # stacks side by side lie further apart than this

Vector = NDArray[np.float64]


class Fault(StrEnum):
    """Why Planes are no regular stack. TILTED and UNEVEN ones may be resampled."""

    NO_VOLUME = "no volume"  # another kind of object
    NO_PLACE = "no place"  # position, orientation or pixel spacing is missing or makes no sense
    TOO_FEW = "too few"
    REPEATED = "repeated"
    UNEVEN = "uneven"
    TILTED = "tilted"
    OFF_GRID = "off grid"


@dataclass(frozen=True)
class Candidate:
    """Planes that may be one volume, sorted along their normal.

    why: what tells it from the others, "" where it is the only one. fault: why it is no regular
    stack, as a sentence; None where it is. kind: the same for programs.
    """

    planes: tuple[Plane, ...]
    why: str
    fault: str | None = None
    kind: Fault | None = None


@dataclass(frozen=True)
class _Group:
    """Planes with what tells them from others: words by what they are about."""

    planes: list[Plane]
    words: Mapping[str, str]


def split(planes: Sequence[Plane]) -> tuple[Candidate, ...]:
    """The candidate volumes of a Series, in the order in which their first Planes stand."""
    groups = [part for group in _never_together(planes) for part in _distinct(group)]
    alike = Counter(told for group in groups for told in group.words.items())
    return tuple(
        _candidate(group, [w for about, w in group.words.items() if alike[about, w] < len(groups)])
        for group in groups
    )


def together(one: Plane, other: Plane) -> bool:
    """Whether nothing but a trait tells these Planes' volumes from each other."""
    if _key(one) != _key(other):
        return False
    return one.orientation is None or _turned(one, other) <= COSINE_TOLERANCE


def continues(plane: Plane, planes: Sequence[Plane]) -> bool:
    """Whether a Plane lies where the next slice of these sorted ones would, at either end."""
    if plane.position is None or plane.orientation is None or len(planes) < 2:
        return False
    ends = positions([planes[0], planes[-1]])
    step = (ends[1] - ends[0]) / (len(planes) - 1)
    off = np.linalg.norm(positions([plane]) - np.array([ends[0] - step, ends[1] + step]), axis=1)
    near = off.min() <= tolerance_mm(float(np.linalg.norm(step)))
    return bool(near) and _turned(plane, planes[0]) <= _NEARLY_PARALLEL


def is_localizer(plane: Plane) -> bool:
    """Image Type value 3 of CT (PS3.3 C.8.2.1.1.1); other modalities write it too."""
    return "LOCALIZER" in _image_type(plane)


def normal(plane: Plane) -> Vector:
    """Unit normal of a Plane, LPS: the direction in which slices are sorted."""
    cosines = np.asarray(plane.orientation, float)
    cross = np.cross(cosines[:3], cosines[3:])
    return np.asarray(cross / np.linalg.norm(cross), float)


def positions(planes: Sequence[Plane]) -> Vector:
    """Positions, (plane, xyz), LPS mm. All must have one."""
    return np.array([plane.position for plane in planes], float).reshape(-1, 3)


def tolerance_mm(spacing: float) -> float:
    """How far a slice may lie from where the spacing puts it."""
    return max(SPACING_TOLERANCE * spacing, SPACING_TOLERANCE_MM)


def place_tolerance_mm(planes: Sequence[Plane], spacing: float) -> float:
    """How far one of these Planes may lie from the even step; more where all are rounded."""
    if any(plane.position is None or plane.orientation is None for plane in planes):
        return tolerance_mm(spacing)
    points = positions(_sorted(planes))
    return max(tolerance_mm(spacing), off_grid_mm(points, normal(planes[0])))


def _candidate(group: _Group, telling: Sequence[str]) -> Candidate:
    why = ", ".join(telling)
    first = group.planes[0]
    if first.sop_class_uid not in VOLUME_SOP_CLASSES:
        name = UID(first.sop_class_uid).name or "of no SOP Class"
        fault = f"{first} is {name}; only CT, MR and PET images make a volume"
        return Candidate(tuple(group.planes), why, fault, Fault.NO_VOLUME)
    if "MOSAIC" in _image_type(first):
        fault = f"{first} is a mosaic: many slices side by side in one image"
        return Candidate(tuple(group.planes), why, fault, Fault.NO_VOLUME)
    nowhere = _nowhere(group.planes)
    if nowhere:
        return Candidate(tuple(group.planes), why, nowhere, Fault.NO_PLACE)
    ordered = _sorted(group.planes)
    kind, sentence = _judged(ordered)
    return Candidate(tuple(ordered), why, sentence, kind)


def _nowhere(planes: Sequence[Plane]) -> str | None:
    """Which Plane of one orientation lacks what a place needs, and what."""
    for plane in planes:
        if (plane.frame or 0) > MAX_FRAMES:
            return f"{plane} is one of more than the {MAX_FRAMES} frames that are read"
        if not (plane.position and plane.orientation and plane.pixel_spacing):
            break
        if not (plane.rows and plane.columns):
            break
    else:
        return _not_perpendicular(planes[0])
    stated = {
        "ImagePositionPatient": plane.position,
        "ImageOrientationPatient": plane.orientation,
        "PixelSpacing": plane.pixel_spacing,
        "Rows": plane.rows,
        "Columns": plane.columns,
    }
    keyword = next(keyword for keyword, value in stated.items() if not value)
    return f"{plane} has no {keyword}, or none that makes sense"


def _not_perpendicular(plane: Plane) -> str | None:
    cosines = np.asarray(plane.orientation, float).reshape(2, 3)
    unit = np.allclose(np.linalg.norm(cosines, axis=1), 1, atol=COSINE_TOLERANCE)
    if unit and abs(float(cosines[0] @ cosines[1])) <= COSINE_TOLERANCE:
        return None
    return (
        f"ImageOrientationPatient of {plane} is not a pair of perpendicular unit vectors: "
        f"{in_words(cosines.ravel())}"
    )


# --- what can never share a volume


def _never_together(planes: Sequence[Plane]) -> list[_Group]:
    found: dict[tuple[object, ...], list[Plane]] = defaultdict(list)
    for plane in planes:
        found[_key(plane)].append(plane)
    return [part for group in found.values() for part in _by_orientation(group)]


def _key(plane: Plane) -> tuple[object, ...]:
    spacing = plane.pixel_spacing
    return (
        plane.sop_class_uid,
        is_localizer(plane),
        _is_derived(plane),
        plane.frame_of_reference_uid,
        plane.rows,
        plane.columns,
        spacing and tuple(round(value / _SAME_PIXEL_SPACING_MM) for value in spacing),
        plane.position is None or plane.orientation is None,
    )


def _is_derived(plane: Plane) -> bool:
    """Image Type value 1 (PS3.3 C.7.6.1.1.2): a reformat is no slice among its sources."""
    return _image_type(plane)[0] == "DERIVED"


def _turned(one: Plane, other: Plane) -> float:
    return float(np.abs(np.subtract(one.orientation, other.orientation)).max())  # type: ignore[arg-type]


def _image_type(plane: Plane) -> list[str]:
    return (plane.traits or {}).get("ImageType", "").split("\\")


def _by_orientation(planes: list[Plane]) -> list[_Group]:
    """Planes of one orientation each; radial ones, of a hundred, stay together at the end."""
    if planes[0].orientation is None or planes[0].position is None:
        return [_Group(planes, _words(planes[0]))]
    cosines = np.array([plane.orientation for plane in planes], float)
    left = np.arange(len(planes))
    groups: list[list[Plane]] = []
    while left.size and len(groups) < _MAX_ORIENTATIONS:
        same = (np.abs(cosines[left] - cosines[left[0]]) <= COSINE_TOLERANCE).all(axis=1)
        groups.append([planes[index] for index in left[same]])
        left = left[~same]
    if left.size:
        groups[-1].extend(planes[index] for index in left)
    return [_Group(group, _words(group[0])) for group in groups]


def _words(plane: Plane) -> dict[str, str]:
    spacing = plane.pixel_spacing
    return {
        "class": UID(plane.sop_class_uid).name or "no SOP Class",
        "localizer": "localizer" if is_localizer(plane) else "no localizer",
        "derived": "derived image" if _is_derived(plane) else "no derived image",
        "frame of reference": f"Frame of Reference {plane.frame_of_reference_uid or 'absent'}",
        "matrix": f"{plane.rows} × {plane.columns} pixels",
        "spacing": f"pixels of {in_words(spacing, 4)} mm" if spacing else "no pixel spacing",
        "orientation": f"orientation {in_words(plane.orientation)}"
        if plane.orientation and plane.position
        else "no place",
    }


# --- what makes repeated positions distinct


def _distinct(group: _Group, depth: int = 0) -> list[_Group]:
    """The group itself where each position is there once; else its parts by telling traits."""
    if depth >= _MAX_DEPTH or len(group.planes) > _MAX_PARTED:
        return [group]
    if _nowhere(group.planes) or not _repeats(group.planes):
        return [group]
    parts = min(_partitions(group), key=_badness, default=[group])
    if len(parts) < 2:
        return [group]
    return [one for part in parts for one in _distinct(part, depth + 1)]


def _repeats(planes: Sequence[Plane]) -> int:
    """How many Planes lie where another one does, along the normal."""
    if planes[0].position is None or planes[0].orientation is None:
        return 0
    along = np.sort(positions(planes) @ normal(planes[0]))
    return int((np.diff(along) < SAME_POSITION_MM).sum())


def _badness(parts: Sequence[_Group]) -> tuple[int, int, int]:
    """First no repeated position, then regular stacks, then few of them, then the first trait."""
    repeats = sum(_repeats(part.planes) for part in parts)
    faulty = sum(_judged(_sorted(part.planes))[0] is not None for part in parts)
    return repeats, faulty, len(parts)


def _partitions(group: _Group) -> Iterable[list[_Group]]:
    """Ways to take a group apart by one trait; none into single slices."""
    ways: dict[str, Callable[[Plane], str]] = {
        "Diffusion": _diffusion,
        **{trait: _trait(trait) for trait in TRAITS},
        "AcquisitionNumber": lambda plane: str(plane.acquisition_number),
        "SOPInstanceUID": lambda plane: plane.sop_instance_uid,
        "in-plane position": _side_by_side(group.planes),
    }
    before = _repeats(group.planes)
    for about, way in ways.items():
        found: dict[str, list[Plane]] = defaultdict(list)
        for plane in group.planes:
            found[way(plane)].append(plane)
        if not 2 <= len(found) <= len(group.planes) // 2 + 1:
            continue
        parts = [
            _Group(planes, {**group.words, about: f"{about} {value or 'absent'}"})
            for value, planes in found.items()
        ]
        if sum(_repeats(part.planes) for part in parts) < before:
            yield parts


def _trait(keyword: str) -> Callable[[Plane], str]:
    return lambda plane: (plane.traits or {}).get(keyword, "")


def _diffusion(plane: Plane) -> str:
    """b-value and direction are one trait: without the other neither tells volumes apart."""
    traits = plane.traits or {}
    told = (traits.get("DiffusionBValue"), traits.get("DiffusionGradientOrientation"))
    return " along ".join(value for value in told if value)


def _side_by_side(planes: Sequence[Plane]) -> Callable[[Plane], str]:
    """Which of several stacks next to each other, e.g. both knees: by the in-plane position."""
    cosines = np.asarray(planes[0].orientation, float).reshape(2, 3)

    def way(plane: Plane) -> str:
        place = np.round(cosines @ np.asarray(plane.position, float) / _IN_PLANE_MM)
        return in_words((place * _IN_PLANE_MM).tolist())

    return way


# --- whether Planes are a regular stack


def _sorted(planes: Sequence[Plane]) -> list[Plane]:
    along = positions(planes) @ normal(planes[0])
    return [planes[index] for index in np.argsort(along, kind="stable")]


def _judged(planes: Sequence[Plane]) -> tuple[Fault | None, str | None]:
    """What keeps sorted Planes from being a regular stack."""
    if len(planes) < 2:
        return Fault.TOO_FEW, "it has one slice; a volume needs at least two"
    points = positions(planes)
    along = points @ normal(planes[0])
    gaps = np.diff(along)
    cosines = np.array([plane.orientation for plane in planes], float)
    if (np.abs(cosines - cosines[0]) > COSINE_TOLERANCE * 1.5).any():
        return Fault.NO_PLACE, f"it has more than {_MAX_ORIENTATIONS} orientations"
    for index in np.flatnonzero(gaps < SAME_POSITION_MM)[:1]:
        return Fault.REPEATED, (
            f"{planes[index]} and {planes[index + 1]} lie at the same position, "
            f"{along[index]:.2f} mm along the slice normal: it holds more than one volume that "
            "nothing in the headers tells apart, or one slice twice"
        )
    uneven = _uneven(planes, gaps)
    if uneven:
        return Fault.UNEVEN, uneven
    step = (points[-1] - points[0]) / (len(planes) - 1)
    degrees = tilt_degrees(planes)
    if degrees > LARGEST_TILT_DEGREES:
        return Fault.TILTED, (
            f"the slices are sheared by {degrees:.1f}° against their normal (gantry tilt)"
        )
    spacing = float(np.linalg.norm(step))
    off = np.linalg.norm(points - (points[0] + np.arange(len(planes))[:, None] * step), axis=1)
    worst = int(np.argmax(off))
    if off[worst] > place_tolerance_mm(planes, spacing):
        return Fault.OFF_GRID, (
            f"{planes[worst]} lies {off[worst]:.2f} mm off the regular grid of {spacing:.3f} mm "
            "spacing"
        )
    return None, None


def tilt_degrees(planes: Sequence[Plane]) -> float:
    """Angle between the normal and the line through the first voxels of sorted Planes."""
    first, last = positions([planes[0], planes[-1]])
    line = last - first
    cosine = float(line @ normal(planes[0]) / np.linalg.norm(line))
    return float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))


def _uneven(planes: Sequence[Plane], gaps: Vector) -> str | None:
    usual = float(np.median(gaps))
    rounding = rounding_mm(positions(planes), normal(planes[0]))
    even = np.abs(gaps - usual) <= tolerance_mm(usual)
    even |= np.abs(gaps - gaps.mean()) <= rounding
    for index in np.flatnonzero(~even)[:1]:
        missing = round(float(gaps[index]) / usual) - 1
        guess = f": {missing} slice{'s' * (missing > 1)} missing there" if missing > 0 else ""
        return (
            f"unequal spacing: {gaps[index]:.2f} mm between {planes[index]} and "
            f"{planes[index + 1]}, {usual:.2f} mm elsewhere{guess}"
        )
    return None


def in_words(values: Iterable[float], digits: int = 3) -> str:
    """Numbers as (a, b, c)."""
    return "(" + ", ".join(f"{value:.{digits}g}" for value in values) + ")"
