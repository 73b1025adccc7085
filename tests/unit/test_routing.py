import pytest
from pydicom import Dataset

from node.core.conditions import Wanted
from node.core.errors import ConfigError
from node.dicom.routing import Route, check_conditions, fit, routing_in_words


def _header() -> Dataset:
    header = Dataset()
    header.Modality = "MR"
    header.SeriesDescription = "T1 Hippocampus sag"
    header.SeriesNumber = 12
    header.ImageType = ["ORIGINAL", "PRIMARY", "M"]
    return header


def _route(**when: Wanted) -> Route:
    return Route("a route", "model", ("pacs",), when)


@pytest.mark.parametrize(
    "when",
    [
        {"Modality": "MR"},
        {"Modality": ("CT", "MR")},
        {"SeriesDescription": "~(?i)hippo"},
        {"SeriesNumber": 12},
        {"SeriesNumber": (11, 12)},
        {"ImageType": "PRIMARY"},
        {},
    ],
)
def test_a_condition_that_holds_matches(when: dict[str, Wanted]) -> None:
    assert fit(_route(**when), _header()).matches


@pytest.mark.parametrize(
    ("when", "sentence"),
    [
        ({"Modality": "CT"}, 'Modality is "MR", not "CT"'),
        ({"Modality": "MR", "BodyPartExamined": "HEAD"}, 'BodyPartExamined is absent, not "HEAD"'),
        ({"SeriesDescription": "~^hippo"}, "not like ^hippo"),
        ({"SeriesNumber": (1, 2)}, 'SeriesNumber is "12", not one of "1", "2"'),
    ],
)
def test_a_condition_that_fails_says_what_was_found(when: dict[str, Wanted], sentence: str) -> None:
    found = fit(_route(**when), _header())
    assert not found.matches
    assert sentence in str(found)


def test_an_unrouted_series_says_why_each_route_did_not_want_it() -> None:
    route = _route(Modality="CT")
    words = routing_in_words([fit(route, _header())])
    assert words == 'unrouted: route "a route": Modality is "MR", not "CT"'


def test_a_condition_on_no_dicom_keyword_is_refused_with_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match=r'"Modalty" is not a DICOM keyword; did you mean "Modality"'
    ):
        check_conditions(_route(Modalty="MR"))
