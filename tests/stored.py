"""Jobs that have a result, as the store sees it; no files."""

from node.core.delivery import Delivery
from node.core.job import Job
from node.core.result import ObjectRef, ResultKind
from node.store.deliveries import Taken
from node.store.jobs import JobStore

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
