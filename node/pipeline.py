"""THE MAIN FLOW: what happens to a Series, top to bottom.

    record    received files get their rows and places
    close     a Series that is judged whole, or given up, is routed and becomes Jobs
    segment   a Job's Series goes through its Model: instance files in, result files out
    deliver   a result goes to a Peer

Each may run twice: a process that dies in the middle of one begins it again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydicom import Dataset

from node.core.errors import Fatal
from node.core.job import Job
from node.core.model import Engine, Model, Progress
from node.core.names import AETitle, SeriesInstanceUID, SOPInstanceUID
from node.core.uids import ResultUIDs, input_fingerprint
from node.core.verdict import Verdict
from node.core.volume import LabelMap, Volume
from node.dicom.align import align
from node.dicom.assemble import admit, stack
from node.dicom.closing import Judgement
from node.dicom.inbox import Inbox
from node.dicom.outbox import Outbox
from node.dicom.results.segmentation import encode, file_bytes
from node.dicom.results.verify import verify
from node.dicom.routing import Route, fit, routing_in_words
from node.dicom.scu.peer import Peer
from node.dicom.scu.storage import send
from node.dicom.series import SourceSeries
from node.ordering import Starts, accepted, starts
from node.recording import Commitment, Mapper, Recorded, committed, opened, placed
from node.store.series import SeriesStore, StoredSeries


class Watch(Protocol):
    """Follows a Job through its stages. What it raises ends the work on the Job."""

    def enter(self, stage: str) -> None: ...
    def tell(self, progress: Progress) -> None: ...


class Unwatched:
    """For those who do not follow it."""

    def enter(self, stage: str) -> None:
        pass

    def tell(self, progress: Progress) -> None:
        pass


@dataclass(frozen=True, eq=False)
class Result:
    """What one Job makes. segmentation: a DICOM SEG as a Part 10 file.

    predicted: labels on the grid of the volumes. label_map: the same on the slices of the source,
    which differ where those are tilted or unevenly spaced.
    """

    volumes: tuple[Volume, ...]
    predicted: LabelMap
    label_map: LabelMap
    segmentation: bytes


def record(
    incoming: Sequence[Path],
    inbox: Inbox,
    series: SeriesStore,
    now: float,
    read: Mapper = map,
    commitment: Commitment | None = None,
) -> Sequence[Recorded]:
    """Files in incoming/ get their rows in one transaction, and their places after it.

    What is said of Storage Commitment is passed on in between.
    """
    read_again = opened(incoming, inbox, read)
    rows = [one.row for one in read_again if one.row is not None]
    ends = [one.end for one in read_again if one.end is not None]
    held = iter(series.add_all(rows, ends, now))
    if commitment is not None:
        read_again = committed(read_again, commitment, now)
    return [placed(one, next(held) if one.row is not None else None, inbox) for one in read_again]


def close(
    seen: StoredSeries,
    judgement: Judgement,
    inbox: Inbox,
    series: SeriesStore,
    routes: Sequence[Route],
    models: Mapping[str, Model],
    now: float,
) -> Sequence[Job] | None:
    """A judged Series is routed and becomes its Jobs; None where more came since it was seen."""
    uid = seen.series_instance_uid
    instances = series.instances(uid)
    gone = sum(not one.path for one in instances)
    header = _header(inbox, uid)
    if gone or header is None:
        routing, started = _incomplete(gone or len(instances), len(instances), uid), Starts()
    else:
        fits = [fit(route, header) for route in routes]
        accepting, refusals = accepted([one for one in fits if one.matches], judgement)
        started = starts(seen, instances, header, accepting, models, judgement.verdict)
        routing = "; ".join([routing_in_words(fits), *refusals])
    return series.close(
        seen,
        judgement.words,
        routing,
        started.orders,
        now,
        started.channel_fits,
        verdict=judgement.verdict,
        findings=judgement.values(),
    )


def segment(
    job: Job,
    inbox: Inbox,
    outbox: Outbox,
    models: Mapping[str, Model],
    engine: Engine,
    watch: Watch,
    predecessor: Job | None = None,
) -> None:
    """The closed Series of one Job through its Model: instance files in, result files out.

    predecessor: the Job whose result a Peer may have, and which this one takes the place of.
    """
    watch.enter("read")
    series = [inbox.read(uid) for uid in job.series_instance_uids]
    _require_unchanged(job, series)
    result = make_result(
        series,
        models[job.model],
        engine,
        job.result_uids,
        job.created_at,
        watch,
        predecessor=predecessor.result_uids.sop_instance_uid if predecessor else None,
        verdict=job.verdict,
    )
    watch.enter("write")
    outbox.write(job, result.segmentation)


def make_result(
    series: Sequence[SourceSeries],
    model: Model,
    engine: Engine,
    uids: ResultUIDs,
    created_at: float,
    watch: Watch,
    predecessor: SOPInstanceUID | None = None,
    verdict: Verdict | None = None,
) -> Result:
    """Series (one per channel) in, a verified Segmentation out. Raises SeriesRejected.

    predecessor: the result that this one takes the place of. verdict: of the least sure Series.
    """
    watch.enter("assemble")
    for one in series:
        admit(one, model.accepts)
    stacks = [stack(one, model.accepts) for one in series]
    volumes = align([one.volume for one in stacks], model.channels)
    watch.enter("predict")
    predicted = engine.segment(volumes, model, watch.tell)
    label_map, planes = stacks[0].labels_on_planes(predicted), stacks[0].planes
    watch.enter("encode")
    segmentation = file_bytes(
        encode(label_map, model, series[0], uids, created_at, planes, predecessor, verdict=verdict)
    )
    watch.enter("verify")
    verify(segmentation, label_map, model, series[0], planes)
    return Result(volumes, predicted, label_map, segmentation)


def deliver(job: Job, outbox: Outbox, peer: Peer, calling_ae_title: AETitle) -> str:
    """The result of a Job to one Peer; returns its answer. Raises Temporary, Fatal."""
    return send(outbox.files(job), peer, calling_ae_title)


def _header(inbox: Inbox, uid: SeriesInstanceUID) -> Dataset | None:
    """What a Series is routed by; None where somebody deleted its files by hand."""
    try:
        return inbox.header(uid)
    except (FileNotFoundError, IndexError):
        return None


def _incomplete(gone: int, instances: int, uid: SeriesInstanceUID) -> str:
    """Of a Series whose files were deleted, of which some may have come again."""
    return (
        f"unrouted: the files of {gone} of its {instances} instances are gone (see Retention); "
        f"send the whole Series again, then: segnode jobs rerun {uid}"
    )


def _require_unchanged(job: Job, series: Sequence[SourceSeries]) -> None:
    if input_fingerprint(one.sha256_by_sop for one in series) != job.input_fingerprint:
        raise Fatal(
            "the instance files on disk are not those that the Job was queued for; "
            "send the Series again, then rerun the Job"
        )
