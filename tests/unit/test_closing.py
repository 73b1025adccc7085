"""What is called whole, what is not, and how long each waits."""

from dataclasses import replace

import pytest
from pydicom import Dataset

from node.core.verdict import Verdict
from node.dicom.closing.counts import AHEAD
from node.dicom.closing.evidence import Count, Facts, Instance, count_from, count_values
from node.dicom.closing.judgement import Judgement, judge
from node.dicom.closing.times import Times
from node.dicom.planes import planes_of
from tests.series_factory import make_series

TIMES = Times(settle_seconds=3.0, quiet_seconds=10.0, last_limit_seconds=3600.0)


def _instance(one: Dataset, ending: str | None = "released") -> Instance:
    number = None if one.InstanceNumber is None else int(one.InstanceNumber)
    return Instance(str(one.SOPInstanceUID), number, None, ending, planes_of(one))


def _facts(series: list[Dataset], silent: float = 0.0, ending: str | None = "released") -> Facts:
    return Facts([_instance(one, ending) for one in series], silent)


def _counted(series: list[Dataset], said: int) -> list[Dataset]:
    for one in series:
        one.ImagesInAcquisition = said
    return series


def _words(judgement: Judgement, evidence: str) -> str:
    return next(one.words for one in judgement.findings if one.evidence == evidence)


def _count(instances: int, held: int, **known: object) -> Count:
    return replace(Count("pacs", instances, held), **known)  # type: ignore[arg-type]


def _settled(held: int, **known: object) -> Count:
    """A Peer holds the very Instances that are here, and rests."""
    rested = {"stable_seconds": 10.0, "rested_seconds": 3.0, "compared": True}
    return _count(held, held, **rested | known)


# --- the three verdicts and their times


def test_a_whole_series_that_nobody_counts_is_consistent_and_settles() -> None:
    judgement = judge(_facts(make_series(), silent=1.0), TIMES)
    assert judgement.verdict is Verdict.CONSISTENT
    assert judgement.wait_seconds == pytest.approx(2.0)
    assert judgement.refused is None


def test_a_count_in_the_headers_that_agrees_proves_it_at_once() -> None:
    judgement = judge(_facts(_counted(make_series(), 20)), TIMES)
    assert (judgement.verdict, judgement.wait_seconds) == (Verdict.PROVEN, 0.0)


def test_what_is_not_shown_waits_the_whole_quiet_period() -> None:
    judgement = judge(_facts(make_series(), silent=4.0, ending="aborted"), TIMES)
    assert judgement.verdict is Verdict.UNPROVEN
    assert judgement.wait_seconds == pytest.approx(6.0)
    assert "20 of 20 came over an association that is aborted" in judgement.lacks


def test_the_settling_time_is_never_longer_than_the_quiet_period() -> None:
    judgement = judge(_facts(make_series()), replace(TIMES, quiet_seconds=1.0))
    assert judgement.wait_seconds == pytest.approx(1.0)


def test_a_route_that_wants_proof_lets_a_consistent_series_wait_for_it() -> None:
    judgement = judge(_facts(make_series()), replace(TIMES, least=Verdict.PROVEN))
    assert judgement.wait_seconds == pytest.approx(10.0)


# --- (a) to (c)


def test_a_missing_slice_in_the_middle_is_named_by_number_and_place() -> None:
    series = make_series()
    del series[6]
    judgement = judge(_facts(series), TIMES)
    assert judgement.verdict is Verdict.UNPROVEN
    assert _words(judgement, "numbers") == "InstanceNumber 7 is missing"
    assert "1 slice missing there" in _words(judgement, "geometry")


def test_a_slice_of_the_series_at_the_same_place_twice_is_not_whole() -> None:
    series = make_series()
    series[5].ImagePositionPatient = series[4].ImagePositionPatient
    assert judge(_facts(series), TIMES).verdict is Verdict.UNPROVEN


def test_the_second_half_of_a_series_is_not_consistent() -> None:
    judgement = judge(_facts(make_series()[10:]), TIMES)
    assert judgement.verdict is Verdict.UNPROVEN
    assert "begins with 11" in judgement.lacks


def test_numbers_that_begin_elsewhere_hold_where_a_count_says_that_this_is_all() -> None:
    facts = _facts(make_series()[10:])
    counted = replace(facts, counts=[_settled(10, ahead=AHEAD)])
    assert judge(counted, TIMES).verdict is Verdict.PROVEN


def test_two_volumes_whose_numbers_repeat_must_both_have_all_of_them() -> None:
    first, second = make_series(name="a"), make_series(name="a", origin=(-10.0, 20.0, 500.0))
    for number, one in enumerate(second):
        one.SOPInstanceUID = f"1.2.3.{number}"
        one.EchoTime = "20"
    judgement = judge(_facts([*first, *second[:12]]), TIMES)
    assert judgement.verdict is Verdict.UNPROVEN
    assert "InstanceNumber 13 to 20 less often" in _words(judgement, "numbers")


@pytest.mark.parametrize("number", [None, 2**31 - 1])
def test_an_odd_instance_number_is_no_evidence_and_takes_no_time(number: int | None) -> None:
    series = make_series()
    series[-1].InstanceNumber = number
    assert judge(_facts(series), TIMES).verdict is Verdict.UNPROVEN


def test_an_incomplete_association_proves_nothing_unless_a_count_agrees() -> None:
    incomplete = _facts(make_series(), ending="incomplete")
    judgement = judge(incomplete, TIMES)
    assert judgement.verdict is Verdict.UNPROVEN
    assert "incomplete (released, but not all" in judgement.lacks
    counted = _facts(_counted(make_series(), 20), ending="incomplete")
    assert judge(counted, TIMES).verdict is Verdict.PROVEN


def test_a_sender_that_went_silent_vouches_for_nothing_and_only_a_settled_count_outweighs_it() -> (
    None
):
    """Half a series, or the first of two acquisitions: it looks whole by every header it has."""
    half = _counted(make_series()[:12], 12)
    facts = _facts(half, ending="idle")
    judgement = judge(facts, TIMES)
    assert judgement.verdict is Verdict.UNPROVEN
    assert "not released: the sender said nothing more" in judgement.lacks
    assert judge(replace(facts, counts=[_settled(12)]), TIMES).verdict is Verdict.PROVEN
    assert judge(replace(facts, counts=[_count(20, 12)]), TIMES).refused


@pytest.mark.parametrize("ending", ["idle", "aborted", "lost", "open", "unread", None])
def test_one_instance_whose_association_was_not_released_is_enough(ending: str | None) -> None:
    facts = _facts(_counted(make_series(), 20))
    spoilt = [*facts.instances[:-1], replace(facts.instances[-1], ending=ending)]
    judgement = judge(replace(facts, instances=spoilt), TIMES)
    assert judgement.verdict is Verdict.UNPROVEN
    assert "1 of 20 came over an association" in judgement.lacks


def test_what_is_no_image_closes_after_release_and_settling() -> None:
    report = Instance("1.2.3", None, None, "released")
    judgement = judge(Facts([report], 0.0, asks=["pacs"]), TIMES)
    assert (judgement.verdict, judgement.wait_seconds) == (Verdict.CONSISTENT, 3.0)


# --- (d) counts in headers


@pytest.mark.parametrize("held", [1, 10, 19])
def test_fewer_than_the_headers_count_waits_for_the_last_limit_and_no_route_gets_it(
    held: int,
) -> None:
    judgement = judge(_facts(_counted(make_series(), 20)[:held], silent=600.0), TIMES)
    assert judgement.verdict is Verdict.UNPROVEN
    assert judgement.wait_seconds == pytest.approx(3000.0)
    assert f"the headers count 20 images (0020,1002) and {held} are here" in str(judgement.refused)


def test_a_count_that_runs_with_the_slices_proves_nothing() -> None:
    series = make_series()
    for number, one in enumerate(series, start=1):
        one.ImagesInAcquisition = number
    assert judge(_facts(series), TIMES).verdict is Verdict.CONSISTENT


def test_a_count_of_less_than_is_here_proves_nothing() -> None:
    assert judge(_facts(_counted(make_series(), 10)), TIMES).verdict is Verdict.CONSISTENT


def test_a_first_small_acquisition_of_many_proves_nothing() -> None:
    series = _counted(make_series(slices=4), 4)
    assert judge(_facts(series), TIMES).verdict is Verdict.CONSISTENT


def test_headers_that_are_not_believed_neither_prove_nor_hold() -> None:
    for said in (20, 60):
        facts = replace(_facts(_counted(make_series(), said)), header_counts=False)
        assert judge(facts, TIMES).verdict is Verdict.CONSISTENT


def test_a_concatenation_is_whole_with_all_its_parts_once_it_has_settled() -> None:
    whole = _facts(make_series(slices=3), silent=3.0)
    parts = [replace(one, parts=3) for one in whole.instances]
    assert judge(replace(whole, instances=parts), TIMES).verdict is Verdict.PROVEN
    young = judge(replace(whole, instances=parts, silent_seconds=1.0), TIMES)
    assert young.verdict is Verdict.CONSISTENT
    assert young.wait_seconds == pytest.approx(2.0)
    judgement = judge(replace(whole, instances=parts[:2]), TIMES)
    assert judgement.refused == "the headers count 3 parts of a concatenation, 2 are here"


# --- (d) counts of peers


def test_a_peer_that_counts_more_holds_it_open_and_names_what_is_missing() -> None:
    missing = ("InstanceNumber 11 (1.2.11)",)
    facts = replace(
        _facts(make_series()[:10], silent=60.0),
        counts=[_count(20, 10, missing=missing)],
        asks=["pacs"],
    )
    judgement = judge(facts, TIMES)
    assert judgement.verdict is Verdict.UNPROVEN
    assert judgement.wait_seconds > 3000
    assert judgement.refused == (
        "pacs counts 20 and 10 are here; missing here: InstanceNumber 11 (1.2.11)"
    )


def test_a_number_said_before_the_instances_came_proves_it_once_it_rests() -> None:
    facts = replace(
        _facts(make_series()), counts=[_settled(20, ahead=15, stable_seconds=4.0)], asks=["pacs"]
    )
    assert (judge(facts, TIMES).verdict, judge(facts, TIMES).wait_seconds) == (Verdict.PROVEN, 0.0)


@pytest.mark.parametrize(
    "count",
    [
        _count(
            20, 20, ahead=2, stable_seconds=4.0
        ),  # it receives what it forwards: never far ahead
        _settled(20, ahead=15, grew=True, stable_seconds=4.0),  # it received more meanwhile
        replace(_settled(20, ahead=15), held=19),  # asked before the last one came
        _settled(20, ahead=15, error="pacs did not answer"),
        _settled(20, ahead=15, rested_seconds=2.9),  # its own source may stall
        _settled(20, compared=False),
        _count(12, 20, stable_seconds=60.0),  # it stores still
        _count(20, 20, stable_seconds=2.0),
    ],
)
def test_a_peer_that_may_be_receiving_itself_proves_nothing(count: Count) -> None:
    facts = replace(_facts(make_series()), counts=[count], asks=["pacs"])
    assert judge(facts, TIMES).verdict is not Verdict.PROVEN
    assert judge(facts, TIMES).wait_seconds > 0


def test_an_unchanged_count_proves_it_after_the_quiet_period() -> None:
    facts = replace(_facts(make_series()), counts=[_settled(20)])
    assert judge(facts, TIMES).verdict is Verdict.PROVEN


def test_a_peer_that_has_not_answered_is_waited_for_and_its_silence_is_no_consent() -> None:
    facts = replace(_facts(_counted(make_series(), 20), silent=20.0), asks=["pacs"])
    for counts in ([], [_count(20, 3)], [_count(3, 3)], [_settled(20, error="broke off")]):
        judgement = judge(replace(facts, counts=counts), TIMES)
        assert judgement.wait_seconds == pytest.approx(100.0)
        assert judgement.verdict is Verdict.UNPROVEN
        assert "pacs has not said how many exist" in judgement.lacks


def test_a_peer_that_cannot_be_asked_is_waited_for_as_long_as_the_quiet_period() -> None:
    away = Count("pacs", error="pacs cannot be reached")
    for series in (make_series(), _counted(make_series(), 20)):
        judgement = judge(replace(_facts(series), asks=["pacs"], counts=[away]), TIMES)
        assert judgement.wait_seconds == pytest.approx(10.0)
        assert judgement.verdict is not Verdict.UNPROVEN


def test_a_peer_that_answered_lets_it_settle() -> None:
    facts = replace(_facts(make_series()), asks=["pacs"])
    answered = replace(facts, counts=[_count(0, 20)])
    assert judge(answered, TIMES).wait_seconds == pytest.approx(3.0)


def test_headers_that_count_more_are_not_overruled_by_a_peer_that_holds_as_few() -> None:
    facts = _facts(_counted(make_series(), 20)[:10])
    counted = replace(facts, counts=[_count(10, 10, ahead=10, stable_seconds=60.0)])
    assert judge(counted, TIMES).refused is not None


def test_a_count_survives_json() -> None:
    count = _count(20, 10, missing=("a", "b"), missing_count=10, error="x")
    assert count_from(count_values(count)) == count


# --- what a settled count of the same Instances outweighs


def _unnumbered(series: list[Dataset]) -> list[Dataset]:
    for one in series:
        one.InstanceNumber = None
    return series


@pytest.mark.parametrize("ending", ["released", "aborted", "lost", None])
@pytest.mark.parametrize(
    "series",
    [
        make_series()[:5] + make_series()[6:],  # deleted at the console; two spacings
        _unnumbered(make_series()),
        make_series()[10:],
    ],
)
def test_a_settled_count_is_stronger_than_numbers_geometry_and_associations(
    series: list[Dataset], ending: str | None
) -> None:
    facts = _facts(series, ending=ending)
    judgement = judge(replace(facts, counts=[_settled(len(series))], asks=["pacs"]), TIMES)
    assert judgement.verdict is Verdict.PROVEN
    assert judge(replace(facts, counts=[_count(len(series), 0)]), TIMES).verdict is Verdict.UNPROVEN


@pytest.mark.parametrize("ending", ["open", "unread"])
def test_no_count_outweighs_what_is_still_coming(ending: str) -> None:
    facts = replace(_facts(make_series(), ending=ending), counts=[_settled(20)])
    assert judge(facts, TIMES).verdict is Verdict.UNPROVEN


def test_as_many_but_others_are_missing() -> None:
    count = _count(20, 20, missing=("1.2.3",), missing_count=1)
    judgement = judge(replace(_facts(make_series()), counts=[count]), TIMES)
    assert "missing here: 1.2.3" in str(judgement.refused)


def test_what_belongs_in_no_volume_is_not_missing() -> None:
    judgement = judge(
        replace(_facts(make_series()), counts=[replace(_settled(20), instances=22, left_out=2)]),
        TIMES,
    )
    assert judgement.verdict is Verdict.PROVEN


def test_a_route_that_wants_proof_waits_for_a_count_that_has_not_rested() -> None:
    facts = replace(_facts(make_series(), silent=10.0), counts=[_count(20, 20)], asks=["pacs"])
    assert judge(facts, replace(TIMES, least=Verdict.PROVEN)).wait_seconds > 0
    assert judge(facts, TIMES).wait_seconds == 0


def test_uneven_slices_are_proven_where_the_headers_count_as_many() -> None:
    series = _counted(make_series(), 20)
    for one in series[10:]:
        x, y, z = (float(v) for v in one.ImagePositionPatient)
        step = [
            float(b) - float(a)
            for a, b in zip(
                series[0].ImagePositionPatient, series[1].ImagePositionPatient, strict=True
            )
        ]
        one.ImagePositionPatient = [x + step[0], y + step[1], z + step[2]]
    assert judge(_facts(series), TIMES).verdict is Verdict.PROVEN


def test_the_second_acquisition_alone_is_not_proven_by_its_headers() -> None:
    series = _counted(make_series()[10:], 10)
    assert judge(_facts(series), TIMES).verdict is Verdict.UNPROVEN


def test_slices_that_all_have_one_number_are_not_numbered() -> None:
    series = make_series()
    for one in series:
        one.InstanceNumber = 1
    assert judge(_facts(series), TIMES).verdict is Verdict.UNPROVEN


def test_one_multi_frame_object_proves_nothing_before_it_settles_and_the_source_has_answered() -> (
    None
):
    (one,) = _facts(make_series(slices=1)).instances
    frames = tuple(
        replace(_facts([each]).instances[0].planes[0], frame=number)
        for number, each in enumerate(make_series(), start=1)
    )
    facts = Facts([replace(one, planes=frames)], 0.0)
    young = judge(facts, TIMES)
    assert (young.verdict, young.wait_seconds) == (Verdict.CONSISTENT, 3.0)
    assert judge(replace(facts, silent_seconds=3.0), TIMES).verdict is Verdict.PROVEN
    asked = replace(facts, silent_seconds=3.0, asks=["pacs"])
    assert judge(asked, TIMES).verdict is Verdict.UNPROVEN
    more = judge(replace(asked, counts=[_count(2, 1)]), TIMES)
    assert more.refused == "pacs counts 2 and 1 are here"


def test_what_was_refused_here_is_missing_too_and_the_refusal_says_so() -> None:
    facts = _facts(make_series(slices=21)[:20], silent=3600.0, ending="incomplete")
    held = replace(facts, counts=[_count(21, 20, missing=("1.2.3",), missing_count=1)])
    judgement = judge(held, TIMES)
    assert judgement.verdict is Verdict.UNPROVEN
    assert "missing here: 1.2.3; an instance of one of its associations was refused here" in str(
        judgement.refused
    )
    released = replace(held, instances=_facts(make_series(slices=21)[:20]).instances)
    assert "refused here" not in str(judge(released, TIMES).refused)
