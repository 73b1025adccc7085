"""What all gates hold against the source alike, and what peers have that must not change."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import BytesIO

import pytest
from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from node.core.errors import Fatal
from node.core.result import SegForm
from node.dicom.results import context
from node.dicom.results.answer import Answer, ResultObject
from node.dicom.results.captures.encode import encode_captures
from node.dicom.results.captures.verify import verify_captures
from node.dicom.results.documents import document
from node.dicom.results.documents.rejection import encode_rejection
from node.dicom.results.documents.verify import verify_rejection
from node.dicom.results.report.encode import encode_report
from node.dicom.results.report.verify import verify_report
from node.dicom.results.segmentation.verify import verify_segmentations
from node.dicom.results.structure_set.encode import encode_structure_set
from node.dicom.results.structure_set.verify import verify_structure_set
from tests.answers import (
    answer_of,
    file_bytes,
    segmentation_of,
    segmentation_ref,
    with_predecessors,
)
from tests.models import source_of
from tests.series_factory import make_series

BYTES = [  # SEG, SR and RTSTRUCT of one Series
    "e0122bf41993465f44e41189f65755a4206413bf36a0ab01bf1cdd2d7ed4f699",
    "f50d01856495426611f39ae5a9393cbb6ec0216318456d48ac45fef450f25eb5",
    "eb92201589557c5f3136c1b89a95ff08129f07a6332ef5328e22b94d34e60186",
]
Gate = Callable[[ResultObject], None]
WHOSE = {
    "PatientID": "P2",
    "IssuerOfPatientID": "elsewhere",
    "PatientName": "Somebody^Else",
    "PatientBirthDate": "19000101",
    "PatientSex": "M",
    "AccessionNumber": "A2",
    "StudyInstanceUID": "1.2.3",
}


def made_with_gates(answer: Answer) -> dict[str, tuple[ResultObject, Gate]]:
    """An object of each kind with the gate that it passes before it leaves."""
    answer = with_predecessors(answer, [segmentation_ref("1.2.3.4")])
    segmentation, pictures = segmentation_of(answer), encode_captures(answer)
    return {
        "SEG": (segmentation, lambda one: verify_segmentations([one], answer, SegForm())),
        "SR": (
            encode_report(answer, [segmentation], ""),
            lambda one: verify_report(one, answer, [segmentation]),
        ),
        "RTSTRUCT": (encode_structure_set(answer), lambda one: verify_structure_set(one, answer)),
        "SC": (pictures[0], lambda one: verify_captures([one, *pictures[1:]], answer)),
        "KO": (
            encode_rejection(answer, answer.predecessors),
            lambda one: verify_rejection(one, answer, answer.predecessors),
        ),
    }


def changed(one: ResultObject, **values: object) -> ResultObject:
    dataset = dcmread(BytesIO(one.content))
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return replace(one, pieces=(file_bytes(dataset),))


@pytest.mark.parametrize("kind", ["SEG", "SR", "RTSTRUCT", "SC", "KO"])
def test_no_gate_lets_another_patient_or_study_pass_or_tells_who_it_is(kind: str) -> None:
    made, gate = made_with_gates(answer_of(source_of(make_series())))[kind]
    gate(made)
    for keyword, value in WHOSE.items():
        for wrong in (value, None):
            if wrong is None and keyword in ("IssuerOfPatientID", "StudyInstanceUID"):
                continue  # the source has no issuer; without a Study nothing is read at all
            with pytest.raises(Fatal, match=f"its {keyword} is not the source's") as caught:
                gate(changed(made, **{keyword: wrong}))
            assert value not in str(caught.value)


def _raw(instances: Sequence[Dataset], keyword: str, vr: str, value: bytes) -> None:
    tag = Tag(keyword)
    for one in instances:
        one[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)


@pytest.mark.parametrize(
    ("keyword", "vr", "value"),
    [
        ("PatientBirthDate", "DA", b"notadate"),
        ("PatientBirthDate", "DA", b"19700101\0 "),
        ("PatientSex", "CS", b"f\\m "),
        ("AccessionNumber", "SH", b" A1\\ A2 "),
        ("AccessionNumber", "SH", b"\xff\xfeA"),
        ("IssuerOfPatientID", "LO", b"H\xc3\xb6he"),
        ("PatientSex", "SQ", b"\1\2\3\4\5\6"),
        ("PatientName", "PN", b"Buc^^^^ "),
    ],
)
def test_what_the_source_says_oddly_passes_all_gates(keyword: str, vr: str, value: bytes) -> None:
    instances = make_series()
    _raw(instances, keyword, vr, value)
    for made, gate in made_with_gates(answer_of(source_of(instances))).values():
        gate(made)


def test_a_number_that_changes_within_the_series_is_that_of_the_first_slice() -> None:
    instances = make_series()
    for index, one in enumerate(instances):
        one.AccessionNumber = f"A{index}"
    for made, gate in made_with_gates(answer_of(source_of(instances[::-1]))).values():
        gate(made)


def test_results_have_the_bytes_that_peers_already_have(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (context, document):
        monkeypatch.setattr(module, "__version__", "0")  # a release is another device
    answer = _dated(answer_of(source_of(make_series())))
    segmentation = segmentation_of(answer)
    made = (segmentation, encode_report(answer, [segmentation], ""), encode_structure_set(answer))
    assert [hashlib.sha256(one.content).hexdigest() for one in made] == BYTES


def _dated(answer: Answer) -> Answer:
    for one in answer.source.instances:
        one.TimezoneOffsetFromUTC = "+0000"
    return answer
