"""A Series as it was received: its data sets, before anything is made of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydicom import Dataset

from node.core.names import SeriesInstanceUID


@dataclass(frozen=True, eq=False)
class SourceSeries:
    """The Instances of one closed Series, in no particular order, Pixel Data included.

    sha256_by_sop: SHA-256 of each data set's bytes by SOP Instance UID.
    """

    series_instance_uid: SeriesInstanceUID
    instances: tuple[Dataset, ...]
    sha256_by_sop: Mapping[str, str] = field(default_factory=dict)
