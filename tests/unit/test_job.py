from pathlib import Path

import pytest

from node.core.errors import StaleState
from node.core.job import TRANSITIONS, JobEvent, JobState, backoff_seconds, next_state, picture

README = Path(__file__).parents[2] / "README.md"


def test_the_table_allows_what_the_design_allows_and_nothing_else() -> None:
    for state in JobState:
        for event in JobEvent:
            if (state, event) in TRANSITIONS:
                assert next_state(state, event) is TRANSITIONS[state, event]
            else:
                with pytest.raises(StaleState, match=state):
                    next_state(state, event)


def test_a_step_that_is_not_there_is_refused_with_what_to_do_instead() -> None:
    with pytest.raises(StaleState, match="segnode jobs resend sends its result again"):
        next_state(JobState.DELIVERED, JobEvent.RERUN)
    with pytest.raises(StaleState, match="segnode jobs cancel it first, then rerun it"):
        next_state(JobState.SEGMENTED, JobEvent.RERUN)


def test_every_end_can_be_left_by_a_person_only() -> None:
    for state in (JobState.DELIVERED, JobState.FAILED, JobState.REJECTED, JobState.CANCELLED):
        events = {event for s, event in TRANSITIONS if s is state}
        assert events <= {JobEvent.RERUN, JobEvent.RESEND}


def test_the_picture_in_the_readme_is_printed_from_the_table() -> None:
    assert picture() in README.read_text(encoding="utf-8")


def test_backoff_doubles_up_to_the_longest_and_jitter_only_shortens() -> None:
    waits = [backoff_seconds(attempt, 5.0, 3600.0, 0.0) for attempt in range(1, 40)]
    assert waits[:4] == [5.0, 10.0, 20.0, 40.0]
    assert waits[-1] == 3600.0
    assert 0.74 * 5.0 < backoff_seconds(1, 5.0, 3600.0, 0.999) < 5.0
