import re
import time
from dataclasses import replace
from io import BytesIO

import pytest
from pydicom import Dataset
from pydicom.filereader import read_dataset

from node.core.conditions import Absent, Range, Wanted, wanted_from
from node.core.errors import ConfigError
from node.core.verdict import Verdict
from node.dicom.matching import LONGEST_MATCHED, SECONDS
from node.dicom.routing import (
    Route,
    check_conditions,
    fit,
    routing_in_words,
    with_models,
)
from node.ordering import channel_route
from tests.models import SEGMENTS, make_model


def _header() -> Dataset:
    header = Dataset()
    header.Modality = "MR"
    header.SeriesDescription = "T1 Hippocampus sag"
    header.SeriesNumber = 12
    header.ImageType = ["ORIGINAL", "PRIMARY", "M"]
    header.SliceThickness = "2.50 "
    header.EchoNumbers = "+03"
    header.PixelSpacing = ["0.5", "1.25"]
    header.ProtocolName = "  "
    header.AcquisitionNumber = 0
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
        {"SliceThickness": 2.5},
        {"SliceThickness": "2.5"},
        {"SliceThickness": Range(2.5, 2.5)},
        {"SliceThickness": Range(0.5, None)},
        {"SliceThickness": Range(None, 3.0)},
        {"EchoNumbers": 3},
        {"EchoNumbers": ("3", "4")},
        {"PixelSpacing": Range(1.0, 2.0)},  # any of its values may fit
        {"ContrastBolusAgent": Absent()},
        {"ProtocolName": Absent()},  # only blanks
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
        ({"SliceThickness": Range(0.5, 2.0)}, 'SliceThickness is "2.50", not between 0.5 and 2'),
        ({"SliceThickness": Range(3.0, None)}, "not at least 3"),
        ({"SliceThickness": Range(None, 2.0)}, "not at most 2"),
        ({"AcquisitionNumber": Absent()}, 'AcquisitionNumber is "0", not absent'),
        ({"SliceLocation": Range(None, 2.0)}, "SliceLocation is absent, not at most 2"),
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


@pytest.mark.parametrize(
    ("keyword", "wanted", "sentence"),
    [
        ("SeriesDescription", Range(1.0, 2.0), "holds text (LO), not numbers"),
        ("PatientName", Range(1.0, None), "holds text (PN)"),
        ("ReferencedSeriesSequence", "x", "(SQ) has no value to compare with"),
        ("PixelData", "x", "has no value to compare with"),
        ("FLAIR", "x", "is not a DICOM keyword"),
    ],
)
def test_a_condition_that_can_never_hold_is_refused(
    keyword: str, wanted: Wanted, sentence: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        check_conditions(_route(**{keyword: wanted}))
    assert sentence in str(raised.value)
    assert f'route "a route": when: "{keyword}"' in str(raised.value)


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        ({"min": 0.5, "max": 2}, Range(0.5, 2.0)),
        ({"min": 0}, Range(0.0, None)),
        ({"max": -1}, Range(None, -1.0)),
        ({"absent": True}, Absent()),
        ([1, "two"], (1, "two")),
        ("~(?i)t1", "~(?i)t1"),
    ],
)
def test_a_condition_is_read_as_it_is_written(written: object, wanted: Wanted) -> None:
    assert wanted_from(written) == wanted


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ({}, "the range is empty"),
        ({"min": 2.0, "max": 1.0}, "min = 2 is more than max = 1"),
        ({"mni": 2.0}, 'a condition has no "mni"; did you mean "min"?'),
        ({"absnt": True}, 'a condition has no "absnt"; did you mean "absent"?'),
        ({"absent": False}, "is written { absent = true }, alone"),
        ({"absent": 1}, "is written { absent = true }, alone"),
        ({"absent": True, "min": 2}, "is written { absent = true }, alone"),
        ({"min": "2"}, "min is '2', which is not a number"),
        ({"min": True}, "min is True, which is not a number"),
        ({"max": float("nan")}, "which is not a number"),
        ([], "the list is empty"),
        (True, "a condition is a text, a number"),
        ("~(", '"(" is not a regular expression'),
        ("~a{99999999999999}", "is not a regular expression"),
    ],
)
def test_a_condition_that_makes_no_sense_is_refused(written: object, sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        wanted_from(written)


@pytest.mark.parametrize("odd", ["1_0", "nan", "inf", "1e999", "٣", "9" * 64, "", "0x10", "1,5"])
def test_what_is_no_number_of_the_standard_fits_no_range(odd: str) -> None:
    header = _header()
    header.add_new("SliceThickness", "LO", odd)
    assert not fit(_route(SliceThickness=Range(None, 1e9)), header).matches


def test_a_value_that_cannot_be_decoded_fails_its_condition_and_no_other() -> None:
    raw = b"\x08\x00\x60\x00CS\x02\x00MR" + b"\x28\x00\x10\x00US\x03\x00abc"
    header = read_dataset(BytesIO(raw), is_implicit_VR=False, is_little_endian=True)
    assert fit(_route(Modality="MR"), header).matches
    found = fit(_route(Modality="MR", Rows=Range(1.0, None)), header)
    words = "Rows is unreadable (BytesLengthException), not at least 1"
    assert str(found) == f'route "a route": {words}'


def test_a_long_value_fits_no_regular_expression_and_says_why() -> None:
    header = _header()
    header.ImageComments = "a" * (LONGEST_MATCHED + 1) + "!"
    found = fit(_route(ImageComments="~^(a+)+$"), header)  # would take longer than the world
    assert not found.matches
    assert "longer than the 256 characters that are matched" in str(found)
    assert len(str(found)) < 300


def test_a_regular_expression_that_takes_for_ever_fails_in_words_and_in_time() -> None:
    header = _header()
    header.ImageComments = "a" * LONGEST_MATCHED
    header.add_new("ImageType", "UC", ["a" * 250] * 100)  # the limit is of all of them together
    slow = "~(.*a){25}b"
    began = time.process_time()
    found = fit(_route(ImageComments=slow, ImageType=(slow, slow), Modality="~^MR$"), header)
    assert time.process_time() - began < 2 * SECONDS + 1  # of the CPU
    (failed,) = found.failed.values()
    assert [one.keyword for one in failed] == ["ImageComments", "ImageType"]
    assert failed[0].found.endswith("(not matched within 1 s: make the regular expression simpler)")


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        ("x{e}", r"write \{ where a brace is meant"),  # roughly x, to the library that matches
        ("[[:alpha:]]", "is not a regular expression: Possible nested set"),
    ],
)
def test_a_regular_expression_that_two_read_differently_is_refused(
    pattern: str, sentence: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        check_conditions(_route(Modality=("MR", f"~{pattern}")))
    assert sentence in str(raised.value)


@pytest.mark.parametrize("pattern", [r"x\{e}", r"^T1(?!.*post)", "a{2}", "a{,3}", r"\\{2}$"])
def test_regular_expressions_of_python_are_taken(pattern: str) -> None:
    check_conditions(_route(SeriesDescription=f"~{pattern}"))


def test_a_value_of_very_many_parts_is_shown_in_short() -> None:
    header = _header()
    header.ImageType = [f"V{number}" for number in range(5000)]
    assert str(fit(_route(ImageType="X"), header)).endswith('"V5" \\ 4994 more, not "X"')


def test_who_the_patient_is_stands_in_no_message() -> None:
    header = _header()
    header.PatientName, header.PatientID = "Doe^Jane", "12345"
    for when in ({"PatientName": "~^Test"}, {"PatientID": "~^T"}):
        words = str(fit(_route(**when), header))
        assert "is another (not shown: it tells who the patient is), not like ^T" in words


def test_each_failed_condition_is_known_and_the_first_is_told() -> None:
    found = fit(_route(Modality="CT", SeriesNumber=3, SeriesDescription="~T1"), _header())
    (failed,) = found.failed.values()
    assert [one.keyword for one in failed] == ["Modality", "SeriesNumber"]
    assert (failed[1].found, failed[1].wanted) == ('"12"', '"3"')
    assert str(found) == 'route "a route": Modality is "MR", not "CT"'


def _channels(**channels: dict[str, Wanted]) -> Route:
    return Route("both", "model", ("pacs",), channels=channels)


def test_a_route_with_channels_says_which_of_them_a_series_fits() -> None:
    route = _channels(T1={"SeriesDescription": "~T1"}, FLAIR={"SeriesDescription": "~FLAIR"})
    found = fit(route, _header())
    assert (found.matches, found.channels) == (True, (0,))
    assert routing_in_words([found]) == 'route "both" matched, channel T1'
    other = _header()
    other.SeriesDescription = "localizer"
    assert routing_in_words([fit(route, other)]) == (
        'unrouted: route "both": T1: SeriesDescription is "localizer", not like T1; '
        'FLAIR: SeriesDescription is "localizer", not like FLAIR'
    )


def test_channels_are_put_in_the_order_of_the_model() -> None:
    model = replace(make_model(SEGMENTS[:1]), channels=("T1", "FLAIR"))
    (route,) = with_models([_channels(FLAIR={}, T1={"Modality": "MR"})], {"model": model})
    assert list(route.channels) == ["T1", "FLAIR"]
    assert route.least_verdict is Verdict.CONSISTENT


def test_channels_of_one_name_are_told_apart_by_their_numbers() -> None:
    model = replace(make_model(SEGMENTS[:1]), channels=("MRI", "MRI"))
    route = Route("both", "model", ("pacs",), channels={"MRI 0": {}, "MRI 1": {}})
    assert list(with_models([route], {"model": model})[0].channels) == ["MRI 0", "MRI 1"]


def test_a_route_is_another_once_its_channels_or_what_they_want_change() -> None:
    model = replace(make_model(SEGMENTS[:1]), channels=("T1", "FLAIR"))
    routes = [
        _channels(T1={"EchoTime": Range(1.0, 2.0)}, FLAIR={}),
        _channels(T1={"EchoTime": Range(1.0, 3.0)}, FLAIR={}),
        _channels(FLAIR={}, T1={"EchoTime": Range(1.0, 2.0)}),
    ]
    assert len({channel_route(route, {"model": model}).conditions for route in routes}) == 3
    same = replace(routes[0], wait_seconds=1.0, send_to=("other",), priority=9)
    found = [channel_route(route, {"model": model}).conditions for route in (routes[0], same)]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("channels", "route", "sentence"),
    [
        (("T1", "FLAIR"), _channels(T1={}), "channels.FLAIR is missing"),
        (("T1", "FLAIR"), _channels(T1={}, FLAR={}), 'no channel "FLAR"; did you mean "FLAIR"?'),
        (("T1", "T 2"), _route(), 'instead of when: channels.T1 = { … }, channels."T 2" = { … }'),
        (("T1",), _channels(T1={}), "reads one Series; write its conditions as when"),
        (("A", "B"), _channels(A={"Modalty": "x"}, B={}), 'channels.A: "Modalty" is not a DICOM'),
    ],
)
def test_channels_that_are_not_the_models_are_refused(
    channels: tuple[str, ...], route: Route, sentence: str
) -> None:
    model = replace(make_model(SEGMENTS[:1]), channels=channels)
    with pytest.raises(ConfigError) as raised:
        with_models([route], {"model": model})
    assert sentence in str(raised.value)
