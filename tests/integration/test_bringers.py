"""An Instance that several Associations brought: the best of them answers for it, in any order."""

from collections.abc import Sequence

import sqlalchemy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from node.dicom.closing.evidence import best_of
from node.judging import facts_of
from node.store.arrivals import AssociationEnd
from node.store.series import SeriesStore
from tests.stored import UID, instance_of

Event = tuple[str, str]  # an Association, and what happens: it brings, or how it ends
ENDINGS = ("released", "incomplete", "aborted", "lost")


@st.composite
def _orders(draw: st.DrawFn) -> tuple[list[str], list[Event]]:
    """How each Association ends, and some order of all that happens."""
    endings = draw(st.lists(st.sampled_from(ENDINGS), min_size=1, max_size=4))
    brings = [(f"a{number}", "brings") for number in range(len(endings))]
    ends = [(f"a{number}", ending) for number, ending in enumerate(endings)]
    return endings, draw(st.permutations(brings + ends))


def _ending_after(engine: sqlalchemy.Engine, order: Sequence[Event]) -> str | None:
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("DELETE FROM series"))
        connection.execute(sqlalchemy.text("DELETE FROM association"))
    store = SeriesStore(engine)
    for at, (name, what) in enumerate(order):
        if what == "brings":
            store.add_all([instance_of(1, association=name)], [], 1000.0 + at)
        else:
            store.add_all([], [AssociationEnd(what, 1000.0 + at, name)], 1000.0 + at)
    (one,) = facts_of(store.brought(UID), {}, 0.0, (), (), True).instances
    return one.ending


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(_orders())
def test_the_best_association_answers_whatever_the_order(
    engine: sqlalchemy.Engine, drawn: tuple[list[str], list[Event]]
) -> None:
    endings, order = drawn
    assert _ending_after(engine, order) == best_of(endings)


def test_while_one_is_open_an_aborted_one_does_not_answer(engine: sqlalchemy.Engine) -> None:
    order = [("a0", "brings"), ("a0", "aborted"), ("a1", "brings")]
    assert _ending_after(engine, order) == "open"
    assert _ending_after(engine, [*order, ("a1", "released")]) == "released"


def test_a_release_is_enough_and_no_more_is_kept(engine: sqlalchemy.Engine) -> None:
    order = [("a0", "brings"), ("a0", "released"), ("a1", "brings"), ("a1", "aborted")]
    assert _ending_after(engine, order) == "released"
    with engine.connect() as connection:
        assert connection.scalar(sqlalchemy.text("SELECT count(*) FROM bringer")) == 0
