"""Which Series fill the channels: one way, none, or too many to tell."""

from node.core.channels import Ambiguous, Candidate, Chosen, Missing, choose
from node.core.names import SeriesInstanceUID


def _series(*names: str) -> list[Candidate]:
    """ "t1@a" is a Series called t1 in frame a."""
    split = [name.partition("@") for name in names]
    return [Candidate(SeriesInstanceUID(uid), frame) for uid, _, frame in split]


def _chosen(*names: str) -> Chosen:
    return Chosen(tuple(SeriesInstanceUID(name) for name in names))


def test_each_channel_has_its_one_series() -> None:
    assert choose([_series("t1@a"), _series("flair@a")]) == _chosen("t1", "flair")


def test_a_channel_without_a_series_is_named() -> None:
    assert choose([_series("t1@a"), [], []]) == Missing((1, 2))


def test_of_two_the_one_in_the_frame_of_the_other_channel_is_taken() -> None:
    found = choose([_series("t1@a"), _series("flair@a", "flair2@b")])
    assert found == _chosen("t1", "flair")


def test_two_in_the_same_frame_are_not_guessed_between() -> None:
    assert choose([_series("t1@a"), _series("flair@a", "flair2@a")]) == Ambiguous((1,))


def test_two_pairs_in_two_frames_are_not_guessed_between() -> None:
    found = choose([_series("t1@a", "t1b@b"), _series("flair@a", "flairb@b")])
    assert found == Ambiguous((0, 1))


def test_the_only_two_are_taken_without_a_common_frame_for_assembly_to_judge() -> None:
    assert choose([_series("t1@a"), _series("flair@b")]) == _chosen("t1", "flair")
    assert choose([_series("t1@"), _series("flair@")]) == _chosen("t1", "flair")


def test_several_without_a_frame_are_not_guessed_between() -> None:
    assert choose([_series("t1@"), _series("flair@", "flair2@")]) == Ambiguous((1,))


def test_a_series_that_fits_both_channels_fills_the_one_that_the_other_cannot() -> None:
    assert choose([_series("t1@a", "flair@a"), _series("flair@a")]) == _chosen("t1", "flair")


def test_one_series_never_fills_two_channels() -> None:
    assert choose([_series("both@a"), _series("both@a")]) == Missing(())


def test_two_that_fit_both_channels_are_not_guessed_between() -> None:
    both = _series("one@a", "two@a")
    assert choose([both, both]) == Ambiguous((0, 1))


def test_many_candidates_are_decided_at_once() -> None:
    many = _series(*(f"{number}@a" for number in range(300)))
    assert choose([many] * 6) == Ambiguous(tuple(range(6)))


def test_very_many_series_of_a_study_are_decided_at_once() -> None:
    many = [Candidate(SeriesInstanceUID(f"1.{number}"), "") for number in range(200)]
    one = [Candidate(SeriesInstanceUID("2.1"), "")]
    assert choose([many, many, many, many, one, one]) == Missing(())
    assert choose([many, many, one]) == Ambiguous((0, 1))
