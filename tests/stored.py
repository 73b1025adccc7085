"""Series, their Jobs and results, as the store sees them; no files."""

from dataclasses import replace

import sqlalchemy

from node.core.delivery import Delivery
from node.core.job import Job
from node.core.names import AETitle, SeriesInstanceUID, SOPInstanceUID
from node.core.result import ObjectRef, ResultKind
from node.core.uids import result_uids
from node.store.deliveries import DeliveryStore, Taken
from node.store.jobs import JobStore
from node.store.orders import JobOrder
from node.store.recipients import RecipientStore
from node.store.series import SeriesStore, StoredInstance, StoredSeries

UID = SeriesInstanceUID("1.2.3")
NOW = 1000.0
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"


def segmentation_of(job: Job) -> ObjectRef:
    """The Segmentation that a Job makes."""
    uids = job.result_uids
    return ObjectRef(
        ResultKind.SEGMENTATION, "", SEGMENTATION, uids.series_instance_uid, uids.sop_instance_uid
    )


def segmented(jobs: JobStore, job: Job, now: float, *more: ObjectRef) -> Job:
    """The Job has made its Segmentation, and `more`; each Peer gets all of it."""
    objects = [segmentation_of(job), *more]
    return jobs.segmented(job.id, objects, dict.fromkeys(job.recipients, objects), now)


def the_one(taken: Taken | None) -> Delivery:
    """The only Delivery that was taken."""
    assert taken is not None
    (delivery,) = taken[1]
    return delivery


def instance_of(
    number: int,
    sha256: str = "aa",
    uid: SeriesInstanceUID = UID,
    association: str | None = None,
) -> StoredInstance:
    """One of the Instances of a Series."""
    return StoredInstance(
        series_instance_uid=uid,
        study_instance_uid="1.2",
        sop_instance_uid=SOPInstanceUID(f"{uid}.{number}"),
        sop_class_uid="1.2.840.10008.5.1.4.1.1.4",
        modality="MR",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        sha256=sha256,
        size_bytes=10,
        path=f"instances/{number}",
        calling_ae_title=AETitle("MODALITY"),
        received_at=NOW,
        association=association,
    )


def job_order(fingerprint: str = "in", peers: tuple[str, ...] = ("pacs",)) -> JobOrder:
    """A Job of the Series for these Peers."""
    return JobOrder(
        (UID,), "route", "model", "mo", fingerprint, result_uids(fingerprint, "mo"), peers
    )


def queued_job(engine: sqlalchemy.Engine, peers: tuple[str, ...] = ("pacs",)) -> Job:
    """The Series has one Instance, was closed, and its Job waits."""
    series = SeriesStore(engine)
    series.add(instance_of(1), NOW)
    seen = seen_series(engine)
    jobs = series.close(seen, "quiet", "routed", [job_order(peers=peers)], NOW)
    assert jobs is not None
    return jobs[0]


def seen_series(engine: sqlalchemy.Engine) -> StoredSeries:
    """The Series as it stands."""
    seen = SeriesStore(engine).get(UID)
    assert seen is not None
    return seen


class Stores:
    """One Job for the Peers a and b."""

    def __init__(self, engine: sqlalchemy.Engine) -> None:
        self.jobs, self.deliveries = JobStore(engine), DeliveryStore(engine)
        self.recipients = RecipientStore(engine)
        self.job = queued_job(engine, ("a", "b"))

    def report(self) -> ObjectRef:
        plain = segmentation_of(self.job)
        uid = SOPInstanceUID(f"{plain.sop_instance_uid}.1")
        return replace(plain, kind=ResultKind.REPORT, sop_instance_uid=uid)

    def now(self) -> Job:
        found = self.jobs.get(self.job.id)
        assert found is not None
        return found

    def of(self, peer: str) -> list[Delivery]:
        return [one for one in self.jobs.deliveries(self.job.id) if one.peer == peer]

    def states(self, peer: str) -> list[str]:
        return [str(one.state) for one in self.of(peer)]
