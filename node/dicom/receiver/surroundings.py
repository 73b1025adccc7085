"""What all Associations of the receiving process share."""

import itertools
from dataclasses import dataclass, field

from node.dicom.receiver.arrival import Spool
from node.dicom.receiver.limits import Limits, Seldom
from node.dicom.receiver.reports import Reports
from node.dicom.receiver.settings import Settings


@dataclass
class Surroundings:
    """What all Associations of the process share. run: names the process in their names."""

    settings: Settings
    spool: Spool
    reports: Reports
    limits: Limits
    run: str
    seldom: Seldom = field(default_factory=Seldom)
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)
