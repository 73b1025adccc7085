"""Planes: one per frame of an image, with where it lies and what tells its volume from others.

Sorting, splitting into volumes, and the evidence that a Series is whole need no pixels and no
headers beyond this; so it is what the database holds of an Instance's header.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

Triple = tuple[float, float, float]
Cosines = tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class Plane:
    """One frame of an image.

    position: centre of the first voxel, LPS mm. orientation: row, then column cosines.
    pixel_spacing: (row, column) mm. frame: 1 to n within a multi-frame Instance, None in a
    single-frame one. traits: what tells one volume of a Series from another, by DICOM keyword
    (ImageType, EchoTime, …), as text. images_in_acquisition: (0020,1002).
    What the header lacks, or what makes no sense there, is None.
    """

    sop_instance_uid: str
    sop_class_uid: str
    frame: int | None = None
    instance_number: int | None = None
    acquisition_number: int | None = None
    images_in_acquisition: int | None = None
    rows: int | None = None
    columns: int | None = None
    position: Triple | None = None
    orientation: Cosines | None = None
    pixel_spacing: tuple[float, float] | None = None
    frame_of_reference_uid: str | None = None
    traits: Mapping[str, str] | None = None


def plane_values(plane: Plane) -> dict[str, Any]:
    """A Plane as JSON takes it; what is None is left out."""
    return {key: value for key, value in asdict(plane).items() if value is not None}


def plane_from(values: Mapping[str, Any]) -> Plane:
    """The Plane of `plane_values`, after it was JSON."""
    known: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return Plane(**known)
