"""THE MAIN FLOW: what happens to a Series, top to bottom.

    record    received files get their rows and places
    close     a Series that is judged whole, or given up, is routed and becomes Jobs
    segment   a Job's Series goes through its Model: instance files in, result files out
    refuse    a Job that has no result says so, where a Peer wants to know
    deliver   the result objects of a Job go to a Peer

Beside the line: a Peer that is asked confirms what it keeps (lanes/confirm), Series wait for other
channels (lanes/wait), Peers that come later get what there is (lanes/give), and those who ask us to
commit to what they sent are answered (lanes/commit).

Each may run twice: a process that dies in the middle of one begins it again.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from pydicom import Dataset

from node.core.errors import Fatal
from node.core.job import Job
from node.core.model import Engine, Model, Progress
from node.core.names import AETitle, JobId, SeriesInstanceUID, SOPInstanceUID
from node.core.result import Identity, ObjectRef, Wants
from node.core.uids import input_fingerprint
from node.core.verdict import Verdict
from node.core.volume import LabelMap, Volume
from node.dicom.align import align
from node.dicom.assemble import Stack, admit, stack
from node.dicom.closing.judgement import Judgement
from node.dicom.inbox import Inbox
from node.dicom.outbox import Outbox
from node.dicom.results.answer import Answer
from node.dicom.results.documents.refusal import encode_refusal, in_words
from node.dicom.results.documents.verify import verify_refusal
from node.dicom.results.make import make_objects
from node.dicom.routing import Route, fit, routing_in_words
from node.dicom.scu.answers import Outcome, Stored
from node.dicom.scu.peer import Peer
from node.dicom.scu.storage import store
from node.dicom.series import SourceSeries, used
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


@dataclass(frozen=True)
class Earlier:
    """What Peers may have, when a Job is segmented.

    predecessors: what its objects take the place of. rejects: what of it each Peer was given that
    wants a note of it. given: the objects of this very Job, whose bytes stay.
    """

    predecessors: Sequence[ObjectRef] = ()
    rejects: Sequence[Sequence[ObjectRef]] = ()
    given: Collection[SOPInstanceUID] = ()


NOTHING_EARLIER: Final = Earlier()


def segment(
    job: Job,
    inbox: Inbox,
    outbox: Outbox,
    models: Mapping[str, Model],
    engine: Engine,
    wants: Sequence[Wants],
    watch: Watch,
    earlier: Earlier = NOTHING_EARLIER,
) -> list[ObjectRef]:
    """The closed Series of one Job through its Model: instance files in, result files out.

    wants: what its Peers get. Returns the objects of the Job.
    """
    watch.enter("read")
    series = [inbox.read(uid) for uid in job.series_instance_uids]
    _require_unchanged(job, series)
    model = models[job.model]
    probabilities = any(one.probabilities for one in wants)
    labelled = label(series, model, engine, watch, probabilities)
    answer = answer_of(
        labelled,
        series[0],
        model,
        job.identity,
        job.created_at,
        earlier.predecessors,
        job.verdict,
    )
    made = []
    for one in make_objects(answer, wants, watch.enter, earlier.rejects):
        watch.enter("write")
        outbox.write(job.id, one, given=one.ref.sop_instance_uid in earlier.given)
        for warning in one.warnings:
            watch.tell(Progress(1.0, warning))
        made.append(one.ref)
    return made


@dataclass(frozen=True, eq=False)
class Labelled:
    """What the Model makes of Series. volume: of the first channel, whose grid the labels have.

    others: the Series of further channels, as far as they were used.
    """

    stack: Stack
    volume: Volume
    predicted: LabelMap
    others: tuple[SourceSeries, ...] = ()


def label(
    series: Sequence[SourceSeries],
    model: Model,
    engine: Engine,
    watch: Watch,
    probabilities: bool = False,
) -> Labelled:
    """Series (one per channel) in, labels on the grid of the first out. Raises SeriesRejected.

    probabilities: whether those of each label are wanted as well.
    """
    watch.enter("assemble")
    for one in series:
        admit(one, model.accepts)
    stacks = [stack(one, model.accepts) for one in series]
    volumes = align([one.volume for one in stacks], model.channels)
    watch.enter("predict")
    predicted = engine.segment(volumes, model, watch.tell, probabilities)
    others = [used(one, made.planes) for one, made in zip(series, stacks, strict=True)][1:]
    return Labelled(stacks[0], volumes[0], predicted, tuple(others))


def answer_of(
    labelled: Labelled,
    source: SourceSeries,
    model: Model,
    identity: Identity,
    created_at: float,
    predecessors: Sequence[ObjectRef] = (),
    verdict: Verdict | None = None,
) -> Answer:
    """The labels on the slices they belong to, with all that result objects are made from.

    verdict: of the least sure Series.
    """
    label_map = labelled.stack.labels_on_planes(labelled.predicted)
    return Answer(
        label_map=label_map,
        predicted=labelled.predicted,
        volume=labelled.volume,
        model=model,
        source=source,
        planes=labelled.stack.planes,
        identity=identity,
        created_at=created_at,
        predecessors=tuple(predecessors),
        verdict=verdict,
        probabilities=label_map.probabilities,
        others=labelled.others,
    )


def refuse(
    job: Job,
    inbox: Inbox,
    series: SeriesStore,
    outbox: Outbox,
    models: Mapping[str, Model],
) -> list[ObjectRef]:
    """A Job that has no result says so in a document; what its first Series was, and why.

    Raises Fatal where the Series does not say whose it is, or its files or its Model are gone.
    """
    uid = job.series_instance_uids[0]
    source, model = _header(inbox, uid), models.get(job.model)
    if source is None or model is None:
        raise Fatal(f"{'the Series' if source is None else 'the Model'} of Job {job.id} is gone")
    instances = [
        (str(one.sop_class_uid), str(one.sop_instance_uid)) for one in series.instances(uid)
    ]
    reason = job.reason or ""
    report = encode_refusal(
        source, job.route, model.title, model, reason, job.identity, job.updated_at, instances
    )
    verify_refusal(report, source, in_words(reason), instances)
    outbox.write(job.id, report)
    return [report.ref]


def deliver(
    job_id: JobId,
    uids: Sequence[SOPInstanceUID],
    outbox: Outbox,
    peer: Peer,
    calling_ae_title: AETitle,
) -> list[Stored]:
    """Result objects of a Job to one Peer; what became of each, in their order.

    One whose file is gone keeps no other from being sent.
    """
    gone = outbox.gone(job_id, uids)
    there = [uid for uid in uids if uid not in gone]
    answers = iter(store(outbox.files(job_id, there), peer, calling_ae_title))
    return [
        Stored(uid, Outcome.PERMANENT, gone[uid]) if uid in gone else next(answers) for uid in uids
    ]


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
