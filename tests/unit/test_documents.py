"""Refusals and rejection notes, judged by dciodvfy, DCMTK and highdicom."""

from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom
import pytest
from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from node.core.errors import Fatal
from node.core.names import SeriesInstanceUID, SOPInstanceUID
from node.core.result import ObjectRef, ResultKind
from node.dicom.results.answer import Answer, ResultObject
from node.dicom.results.context import file_bytes
from node.dicom.results.documents.refusal import MAX_REASON, encode_refusal, in_words
from node.dicom.results.documents.rejection import encode_rejection
from node.dicom.results.documents.verify import verify_refusal, verify_rejection
from tests.answers import CREATED_AT, IDENTITY, answer_of, read_back, with_predecessors
from tests.changes import evidence_with, study_of_evidence
from tests.judges import faults_of, require_dcmtk_reads
from tests.models import make_model, source_of
from tests.series_factory import make_ct, make_enhanced, make_series

REASON = "slice 12 of 40 is missing between z = 31.5 and 34.5 mm; send the Series again"
OUR_SCHEME = (
    "Warning - Unrecognized defined term <99SEGNODE> for value 1 of attribute "
    "<Coding Scheme Designator>"
)


def _referenced(instances: list[Dataset]) -> list[tuple[str, str]]:
    return [(one.SOPClassUID, one.SOPInstanceUID) for one in instances]


def _refused(
    instances: list[Dataset], reason: str = REASON, route: str = "brain MR"
) -> ResultObject:
    refusal = encode_refusal(
        instances[0],
        route,
        "Hippocampus",
        make_model(),
        reason,
        IDENTITY,
        CREATED_AT,
        _referenced(instances),
    )
    verify_refusal(refusal, instances[0], in_words(reason), _referenced(instances))
    return refusal


def _texts(document: ResultObject) -> list[str]:
    items = dcmread(BytesIO(document.content)).ContentSequence
    return [
        str(item.TextValue)
        for item in items
        if item.RelationshipType == "CONTAINS" and item.ValueType == "TEXT"
    ]


def test_a_refusal_says_why_and_that_nothing_was_looked_at() -> None:
    refusal = _refused(make_series())
    assert _texts(refusal) == [
        f"No result of Hippocampus (route brain MR): {REASON}",
        "The images were not analysed: nothing follows from the absence of findings",
        "Research use; not a medical device",
    ]
    dataset = dcmread(BytesIO(refusal.content))
    assert dataset.ConceptNameCodeSequence[0].CodeMeaning == "No result"
    assert dataset.SeriesDescription == "No result: Hippocampus"
    assert (dataset.Modality, dataset.SeriesNumber) == ("SR", 2503)
    assert refusal.ref.kind is ResultKind.REFUSAL
    (study,) = dataset.CurrentRequestedProcedureEvidenceSequence
    (series,) = study.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == make_series()[0].SeriesInstanceUID
    assert len(series.ReferencedSOPSequence) == 20


def test_a_refusal_needs_no_more_of_the_source_than_its_uids() -> None:
    (one, *_) = make_series()
    for element in list(one):
        if not element.keyword.endswith("UID"):
            del one[element.tag]
    del one.FrameOfReferenceUID
    refusal = _refused([one])
    assert dcmread(BytesIO(refusal.content)).PatientID == ""
    del one.StudyInstanceUID
    with pytest.raises(Fatal, match="has no StudyInstanceUID"):
        _refused([one])


@pytest.mark.parametrize(
    "number", [b"1e400 ", b"inf ", b"nan ", b"1\\2 ", b"\xff\xfe", b"-3", b"9" * 12]
)
def test_a_series_number_that_is_none_does_not_stand_in_the_way(number: bytes) -> None:
    instances = make_series()
    for one in instances:
        tag = Tag("SeriesNumber")
        one[tag] = RawDataElement(tag, "IS", len(number), number, 0, False, True)
    assert dcmread(BytesIO(_refused(instances).content)).SeriesNumber == 2500


def test_the_same_refusal_is_the_same_document_and_another_reason_is_another() -> None:
    one, again, other = (
        _refused(make_series()),
        _refused(make_series()),
        _refused(make_series(), "the Peer was away"),
    )
    assert one.content == again.content
    assert one.ref.sop_instance_uid != other.ref.sop_instance_uid
    assert one.ref.series_instance_uid == other.ref.series_instance_uid
    elsewhere = _refused(make_series(), route="other")
    assert elsewhere.ref.sop_instance_uid != one.ref.sop_instance_uid


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("two\nlines\tand \x1b[31mred\x00", "two lines and [31mred"),
        ("it failed: Traceback (most recent call last)\n File x", "it failed:"),
        ("Traceback (most recent call last)\n", "an error of the node, which its log tells of"),
        ("half a pair \ud800 and \u202eturned", "half a pair and turned"),
        ("", "an error of the node, which its log tells of"),
        ("512 × 512 Größe", "512 × 512 Größe"),
    ],
)
def test_a_reason_is_a_line_that_a_person_can_read(reason: str, words: str) -> None:
    assert in_words(reason) == words
    assert words in _texts(_refused(make_series(), reason))[0]


def test_a_reason_without_end_has_one() -> None:
    words = in_words("because " * 10_000)
    assert len(words) <= MAX_REASON
    assert words.endswith(" ...")


@pytest.mark.parametrize("character_set", ["ISO_IR 100", "ISO_IR 192"])
def test_a_reason_and_a_name_beyond_ascii_survive(character_set: str) -> None:
    instances = make_series()
    for one in instances:
        one.SpecificCharacterSet, one.PatientName = character_set, "Buc^Jérôme"
    refusal = _refused([read_back(one) for one in instances], "Größe 512 × 512, 左")
    dataset = dcmread(BytesIO(refusal.content))
    assert str(dataset.PatientName) == "Buc^Jérôme"
    assert "Größe 512 × 512, 左" in _texts(refusal)[0]


@pytest.mark.parametrize(
    "instances",
    [make_series(), make_ct(), [make_enhanced(make_series())]],
    ids=["MR", "CT", "enhanced MR"],
)
def test_dciodvfy_and_dcmtk_find_no_fault_in_a_refusal(
    tmp_path: Path, instances: list[Dataset]
) -> None:
    (tmp_path / "refusal.dcm").write_bytes(_refused(instances).content)
    assert faults_of(tmp_path / "refusal.dcm") <= {OUR_SCHEME}
    shown = require_dcmtk_reads(tmp_path / "refusal.dcm")
    assert REASON in shown


def _ref(kind: ResultKind, sop_class: str, number: int) -> ObjectRef:
    return ObjectRef(
        kind, "", sop_class, SeriesInstanceUID(f"1.2.{number}"), SOPInstanceUID(f"1.3.{number}")
    )


SEG = _ref(ResultKind.SEGMENTATION, "1.2.840.10008.5.1.4.1.1.66.4", 1)
REPORT = _ref(ResultKind.REPORT, "1.2.840.10008.5.1.4.1.1.88.34", 2)
NOTE = _ref(ResultKind.REJECTION, "1.2.840.10008.5.1.4.1.1.88.59", 3)


@pytest.fixture
def answer() -> Answer:
    return with_predecessors(answer_of(source_of(make_series())), [SEG, REPORT, NOTE])


def test_a_rejection_note_refers_to_all_that_is_replaced_but_other_notes(answer: Answer) -> None:
    note = encode_rejection(answer, answer.predecessors)
    verify_rejection(note, answer, answer.predecessors)
    read = highdicom.ko.KeyObjectSelectionDocument.from_dataset(dcmread(BytesIO(note.content)))
    content = read.content
    assert content[0].name.value == "113001"
    assert content[0].template_id == "2010"
    assert {str(item.referenced_sop_instance_uid) for item in content.get_references()} == {
        str(SEG.sop_instance_uid),
        str(REPORT.sop_instance_uid),
    }
    assert read.resolve_reference(SEG.sop_instance_uid)[1] == SEG.series_instance_uid
    (_,) = content.get_observer_contexts()
    assert (read.Modality, read.SeriesNumber) == ("KO", 2903)
    assert note.ref.kind is ResultKind.REJECTION
    assert note.content == encode_rejection(answer, answer.predecessors).content


def test_a_peer_that_was_given_less_gets_a_note_of_its_own(answer: Answer) -> None:
    both, one = encode_rejection(answer, [SEG, REPORT]), encode_rejection(answer, [SEG])
    verify_rejection(one, answer, [SEG])
    named = [ref.referenced_sop_instance_uid for ref in _references(one)]
    assert named == [SEG.sop_instance_uid]
    assert one.ref.sop_instance_uid != both.ref.sop_instance_uid
    assert one.ref.form != both.ref.form
    for note, given in ((one, [SEG, REPORT]), (both, [SEG])):
        with pytest.raises(Fatal, match="its SOP Instance UID is not that of this Job"):
            verify_rejection(note, answer, given)


def test_the_order_of_what_was_given_does_not_matter(answer: Answer) -> None:
    note = encode_rejection(answer, [SEG, REPORT])
    assert note.content == encode_rejection(answer, [REPORT, SEG, NOTE, SEG]).content


def _references(note: ResultObject) -> list[Any]:
    read = highdicom.ko.KeyObjectSelectionDocument.from_dataset(dcmread(BytesIO(note.content)))
    return list(read.content.get_references())


def test_without_an_earlier_result_there_is_nothing_to_reject(answer: Answer) -> None:
    with pytest.raises(Fatal, match="there is no earlier result"):
        encode_rejection(answer, [NOTE])


def test_dciodvfy_and_dcmtk_find_no_fault_in_a_rejection_note(
    tmp_path: Path, answer: Answer
) -> None:
    (tmp_path / "note.dcm").write_bytes(encode_rejection(answer, answer.predecessors).content)
    assert faults_of(tmp_path / "note.dcm") == set()
    assert "Rejected for Quality Reasons" in require_dcmtk_reads(tmp_path / "note.dcm")


def _drop_a_reference(dataset: Dataset) -> None:
    del dataset.ContentSequence[-1]


def _drop_evidence(dataset: Dataset) -> None:
    del dataset.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]


def _series_of_evidence(dataset: Dataset) -> None:
    (study,) = dataset.CurrentRequestedProcedureEvidenceSequence
    study.ReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.3"


def _repeat_evidence(dataset: Dataset) -> None:
    (study,) = dataset.CurrentRequestedProcedureEvidenceSequence
    items = study.ReferencedSeriesSequence[0].ReferencedSOPSequence
    items.append(items[0])


def _reference(keyword: str) -> Callable[[Dataset], None]:
    def change(dataset: Dataset) -> None:
        setattr(dataset.ContentSequence[-1].ReferencedSOPSequence[0], keyword, "1.2.3")

    return change


def _say(words: str) -> Callable[[Dataset], None]:
    def change(dataset: Dataset) -> None:
        for item in dataset.ContentSequence:
            if item.ConceptNameCodeSequence[0].CodeValue == "113012":
                item.TextValue = words

    return change


def _retitle(dataset: Dataset) -> None:
    dataset.ConceptNameCodeSequence[0].CodeValue = "113000"


def _drop_content(dataset: Dataset) -> None:
    del dataset.ContentSequence


def _set(keyword: str, value: str) -> Callable[[Dataset], None]:
    return lambda dataset: setattr(dataset, keyword, value)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (_drop_a_reference, "does not refer to all that it replaces"),
        (_drop_evidence, "1 instances of its evidence"),
        (evidence_with("ReferencedSOPClassUID"), "2 instances of its evidence"),
        (evidence_with("ReferencedSOPInstanceUID"), "2 instances of its evidence"),
        (study_of_evidence, "4 instances of its evidence"),
        (_series_of_evidence, "2 instances of its evidence"),
        (_repeat_evidence, "0 instances of its evidence"),
        (_reference("ReferencedSOPClassUID"), "does not refer to all that it replaces"),
        (_reference("ReferencedSOPInstanceUID"), "does not refer to all that it replaces"),
        (_say("keep"), 'does not say "Replaced by a later result"'),
        (_say("Replaced by a later result"), 'does not say "not a medical device"'),
        (_retitle, "its title is not Rejected for Quality Reasons"),
        (_drop_content, "it does not say"),
        (_set("PatientName", "Somebody^Else"), "its PatientName is not the source's"),
        (_set("StudyInstanceUID", "1.2"), "its StudyInstanceUID is not the source's"),
        (_set("SOPInstanceUID", "1.2"), "its SOP Instance UID is 1.2"),
    ],
)
def test_a_rejection_note_that_is_wrong_does_not_leave(
    answer: Answer, spoil: Callable[[Dataset], None], sentence: str
) -> None:
    note = encode_rejection(answer, answer.predecessors)
    dataset = dcmread(BytesIO(note.content))
    spoil(dataset)
    with pytest.raises(Fatal, match=sentence):
        verify_rejection(replace(note, pieces=(file_bytes(dataset),)), answer, answer.predecessors)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (_drop_evidence, "20 instances of its evidence"),
        (_drop_content, "it does not say"),
        (_set("SOPClassUID", "1.2"), "its SOP Class is 1.2"),
    ],
)
def test_a_refusal_that_is_wrong_does_not_leave(
    spoil: Callable[[Dataset], None], sentence: str
) -> None:
    instances = make_series()
    refusal = _refused(instances)
    dataset = dcmread(BytesIO(refusal.content))
    spoil(dataset)
    spoiled = replace(refusal, pieces=(file_bytes(dataset),))
    with pytest.raises(Fatal, match=sentence):
        verify_refusal(spoiled, instances[0], REASON, _referenced(instances))
