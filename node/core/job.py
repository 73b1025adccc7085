"""The states of a Job, the events between them, and the one table of transitions.

A state is a fact on disk (a result file exists), an event is a verb (SEGMENT). After a crash
nothing is repaired: the fact still holds and the step runs again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from node.core.errors import StaleState
from node.core.names import JobId, SeriesInstanceUID
from node.core.result import Identity
from node.core.uids import ResultUIDs
from node.core.verdict import Verdict


class JobState(StrEnum):
    """What is true of a Job."""

    QUEUED = "QUEUED"
    SEGMENTED = "SEGMENTED"
    DELIVERED = "DELIVERED"
    REJECTED = "REJECTED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class JobEvent(StrEnum):
    """What happens to a Job."""

    SEGMENT = "SEGMENT"
    DELIVER = "DELIVER"
    REJECT = "REJECT"
    FAIL = "FAIL"
    CANCEL = "CANCEL"
    RERUN = "RERUN"
    RESEND = "RESEND"


TRANSITIONS: Mapping[tuple[JobState, JobEvent], JobState] = {
    (JobState.QUEUED, JobEvent.SEGMENT): JobState.SEGMENTED,
    (JobState.QUEUED, JobEvent.REJECT): JobState.REJECTED,
    (JobState.QUEUED, JobEvent.FAIL): JobState.FAILED,
    (JobState.QUEUED, JobEvent.CANCEL): JobState.CANCELLED,
    (JobState.SEGMENTED, JobEvent.DELIVER): JobState.DELIVERED,
    (JobState.SEGMENTED, JobEvent.FAIL): JobState.FAILED,
    (JobState.SEGMENTED, JobEvent.CANCEL): JobState.CANCELLED,
    (JobState.FAILED, JobEvent.RERUN): JobState.QUEUED,
    (JobState.REJECTED, JobEvent.RERUN): JobState.QUEUED,
    (JobState.CANCELLED, JobEvent.RERUN): JobState.QUEUED,
    (JobState.FAILED, JobEvent.RESEND): JobState.SEGMENTED,
    (JobState.DELIVERED, JobEvent.RESEND): JobState.SEGMENTED,
}

# What a person does who wanted a step that is not there.
_INSTEAD: Mapping[tuple[JobState, JobEvent], str] = {
    (JobState.QUEUED, JobEvent.RERUN): "it runs by itself",
    (JobState.SEGMENTED, JobEvent.RERUN): "segnode jobs cancel it first, then rerun it",
    (JobState.DELIVERED, JobEvent.RERUN): (
        "segnode jobs resend sends its result again, and the same instances through the same model "
        "give no other; docs/peers.md says how objects are made that a peer wants later"
    ),
    (JobState.QUEUED, JobEvent.RESEND): "it has no result yet",
    (JobState.REJECTED, JobEvent.RESEND): "it has no result; segnode jobs rerun lets it try again",
    (JobState.CANCELLED, JobEvent.RESEND): "segnode jobs rerun makes its result again",
    **{
        (ended, JobEvent.CANCEL): "it has ended, and nothing of it is under way"
        for ended in (JobState.DELIVERED, JobState.REJECTED, JobState.FAILED, JobState.CANCELLED)
    },
}


def next_state(state: JobState, event: JobEvent) -> JobState:
    """The state that `event` leads to. Raises StaleState where the table has no such step."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        allowed = ", ".join(s.value for s, e in TRANSITIONS if e is event)
        words = f"a Job that is {state} cannot {event}; it would have to be {allowed}"
        raise StaleState(": ".join(filter(None, (words, _INSTEAD.get((state, event)))))) from None


def picture() -> str:
    """The table as a Mermaid state diagram, for the README."""
    lines = [f"    {state} --> {to}: {event}" for (state, event), to in TRANSITIONS.items()]
    return "\n".join(["stateDiagram-v2", "    [*] --> QUEUED", *lines])


@dataclass(frozen=True)
class Job:
    """One closed Series (one per channel of the Model) through one Model.

    Times are seconds since the epoch, UTC. `not_before` is when the next attempt may start.
    `stage` is progress for the eye, never a state. `timings` are seconds by stage. Of two that are
    due the one of higher `priority` goes first. `verdict`: the least sure one of its Series.
    `recipients`: the Peers that its Routes name, by name.
    """

    id: JobId
    series_instance_uids: tuple[SeriesInstanceUID, ...]
    route: str
    model: str
    model_fingerprint: str
    input_fingerprint: str
    result_uids: ResultUIDs
    state: JobState
    attempts: int
    not_before: float
    created_at: float
    updated_at: float
    reason: str | None = None
    stage: str | None = None
    timings: Mapping[str, float] = field(default_factory=dict)
    supersedes: JobId | None = None
    priority: int = 0
    verdict: Verdict | None = None
    purged_at: float | None = None
    refusal_at: float | None = None  # since then it is settled whether Peers are told of a refusal
    recipients: tuple[str, ...] = ()

    @property
    def identity(self) -> Identity:
        """What the UIDs of all its result objects are derived from."""
        return Identity(self.input_fingerprint, self.model_fingerprint)


@dataclass(frozen=True)
class LoggedEvent:
    """A row of the Job's history: a transition, or a note of a failed attempt (no states)."""

    at: float
    event: str
    from_state: str | None
    to_state: str | None
    detail: str | None


def backoff_seconds(attempt: int, first: float, longest: float, jitter: float) -> float:
    """How long to wait after failed attempt number `attempt` (1 is the first).

    Doubles from `first` up to `longest`; `jitter` in [0, 1) takes off up to a quarter, so that
    many Deliveries to one Peer do not knock at once.
    """
    doubled = first * 2.0 ** min(attempt - 1, 30)
    return min(doubled, longest) * (1.0 - 0.25 * jitter)
