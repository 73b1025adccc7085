"""The way from incoming/ to a closed Series and its Jobs, stepped by hand."""

import time
from pathlib import Path

import sqlalchemy
from pydicom import Dataset

from node.core.job import Job
from node.core.names import SeriesInstanceUID
from node.dicom.closing.times import Times
from node.dicom.inbox import Inbox
from node.dicom.routing import Route
from node.lanes.close import CloseLane
from node.lanes.record import RecordLane
from node.store.deliveries import DeliveryStore
from node.store.jobs import JobStore
from node.store.series import SeriesStore, StoredSeries
from tests.made_up import THRESHOLD

ROUTE = Route("all MR", "threshold", ("pacs",), {"Modality": "MR"})
LONG_ENOUGH = 1.5  # for what the times below say, on a machine that stumbles


class Ward:
    """A data folder with the lanes that close Series, stepped by hand."""

    def __init__(self, folder: Path, engine: sqlalchemy.Engine) -> None:
        self.folder, self.inbox = folder, Inbox(folder)
        self.series, self.jobs = SeriesStore(engine), JobStore(engine)
        self.deliveries = DeliveryStore(engine)
        self.recording = RecordLane(self.inbox, self.series, lambda: None)
        self.closing = self.closing_lane(self.recording)

    def closing_lane(self, recording: RecordLane) -> CloseLane:
        return CloseLane(
            self.inbox,
            self.series,
            [ROUTE],
            {"threshold": THRESHOLD},
            Times(settle_seconds=0.2, quiet_seconds=0.5),
            lambda: None,
            recording,
        )

    def step(self, seconds: float = 0.0) -> None:
        """Both lanes, again and again for so long."""
        until = time.monotonic() + seconds
        while True:
            self.recording.step()
            self.closing.step()
            self.recording.step()
            self.closing.step()
            if time.monotonic() >= until:
                return
            time.sleep(0.01)

    def of(self, instances: list[Dataset]) -> StoredSeries:
        seen = self.series.get(str(instances[0].SeriesInstanceUID))
        assert seen is not None
        return seen

    def jobs_of(self, instances: list[Dataset]) -> list[Job]:
        return list(self.jobs.of_series(SeriesInstanceUID(str(instances[0].SeriesInstanceUID))))
