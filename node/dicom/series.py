"""A Series as it was received: its data sets, before anything is made of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from pydicom import Dataset

from node.core.names import SeriesInstanceUID
from node.dicom.planes import Plane


@dataclass(frozen=True, eq=False)
class SourceSeries:
    """The Instances of one closed Series, in no particular order, Pixel Data included.

    sha256_by_sop: SHA-256 of each data set's bytes by SOP Instance UID.
    """

    series_instance_uid: SeriesInstanceUID
    instances: tuple[Dataset, ...]
    sha256_by_sop: Mapping[str, str] = field(default_factory=dict)


def used(series: SourceSeries, planes: Iterable[Plane]) -> SourceSeries:
    """A Series without the Instances that none of the planes belong to."""
    wanted = {plane.sop_instance_uid for plane in planes}
    instances = tuple(one for one in series.instances if one.get("SOPInstanceUID") in wanted)
    return replace(series, instances=instances)
