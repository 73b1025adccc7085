"""The gate of a report: what is right passes, whatever its shape; what is wrong is named."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.filebase import DicomBytesIO

from node.core.errors import Fatal
from node.core.model import InputRules
from node.core.names import SeriesInstanceUID, SOPInstanceUID
from node.core.result import ObjectRef, ResultKind
from node.dicom.results.answer import Answer, ResultObject
from node.dicom.results.context import file_bytes
from node.dicom.results.report.encode import encode_report
from node.dicom.results.report.verify import verify_report
from tests.answers import answer_of, segmentation_of, with_predecessors
from tests.changes import evidence_with, study_of_evidence
from tests.models import source_of
from tests.series_factory import CORONAL, make_ct, make_pet, make_series
from tests.spheres import CASES, sphere_series

EARLIER = ObjectRef(
    ResultKind.REPORT,
    "",
    "1.2.840.10008.5.1.4.1.1.88.34",
    SeriesInstanceUID("1.2.3"),
    SOPInstanceUID("1.2.3.4"),
)


@settings(deadline=None, max_examples=25)
@given(
    shape=st.tuples(st.integers(2, 6), st.integers(1, 9), st.integers(1, 9)),
    density=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    seed=st.integers(0, 2**31),
)
def test_any_labels_pass(shape: tuple[int, int, int], density: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    source = source_of(make_series(*shape, orientation=CORONAL))
    labels = random.choice([1, 2, 5], shape) * (random.random(shape) < density)
    answer = answer_of(source, labels.astype(np.uint8))
    segmentation = segmentation_of(answer)
    verify_report(encode_report(answer, [segmentation], ""), answer, [segmentation])


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_labels_on_slices_that_are_tilted_or_uneven_pass(
    case: tuple[float, np.ndarray],
) -> None:
    source = source_of(sphere_series(*case))
    rules = InputRules(resample=True)
    labels = (answer_of(source, rules=rules).volume.array > 500).astype(np.uint8)
    answer = answer_of(source, labels, rules=rules)
    segmentation = segmentation_of(answer)
    verify_report(encode_report(answer, [segmentation], ""), answer, [segmentation])


@pytest.fixture(scope="module")
def answer() -> Answer:
    return with_predecessors(answer_of(source_of(make_ct())), [EARLIER])


@pytest.fixture(scope="module")
def segmentation(answer: Answer) -> ResultObject:
    return segmentation_of(answer)


@pytest.fixture(scope="module")
def report(answer: Answer, segmentation: ResultObject) -> ResultObject:
    return encode_report(answer, [segmentation], "")


def _items(parent: Dataset) -> Iterator[Dataset]:
    """All content items, in the order of the document."""
    for item in parent.get("ContentSequence") or []:
        yield item
        yield from _items(item)


def _named(dataset: Dataset, meaning: str) -> Dataset:
    return next(
        item for item in _items(dataset) if item.ConceptNameCodeSequence[0].CodeMeaning == meaning
    )


def _number(meaning: str, factor: float) -> Callable[[Dataset], None]:
    def change(dataset: Dataset) -> None:
        measured = _named(dataset, meaning).MeasuredValueSequence[0]
        measured.NumericValue = f"{float(measured.NumericValue) * factor:.9g}"

    return change


def _unit(meaning: str, unit: str) -> Callable[[Dataset], None]:
    def change(dataset: Dataset) -> None:
        measured = _named(dataset, meaning).MeasuredValueSequence[0]
        measured.MeasurementUnitsCodeSequence[0].CodeValue = unit

    return change


def _code(meaning: str, value: str) -> Callable[[Dataset], None]:
    def change(dataset: Dataset) -> None:
        _named(dataset, meaning).ConceptCodeSequence[0].CodeValue = value

    return change


def _swap_tracking_uids(dataset: Dataset) -> None:
    one, other = (
        item
        for item in _items(dataset)
        if item.ConceptNameCodeSequence[0].CodeMeaning == "Tracking Unique Identifier"
    )
    one.UID, other.UID = other.UID, one.UID


def _drop(meaning: str) -> Callable[[Dataset], None]:
    def change(dataset: Dataset) -> None:
        gone = _named(dataset, meaning)
        for parent in (dataset, *_items(dataset)):
            children = parent.get("ContentSequence") or []
            if any(child is gone for child in children):
                parent.ContentSequence = [child for child in children if child is not gone]

    return change


def _other_segment(dataset: Dataset) -> None:
    _named(dataset, "Referenced Segment").ReferencedSOPSequence[0].ReferencedSegmentNumber = 2


def _other_instance(dataset: Dataset) -> None:
    _named(dataset, "Source").ReferencedSOPSequence[0].ReferencedSOPInstanceUID = "1.2.9"


def _other_class(dataset: Dataset) -> None:
    _named(dataset, "Source").ReferencedSOPSequence[0].ReferencedSOPClassUID = "1.2.9"


def _less_evidence(dataset: Dataset) -> None:
    (study,) = dataset.CurrentRequestedProcedureEvidenceSequence
    del study.ReferencedSeriesSequence[0].ReferencedSOPSequence[3]


def _set(keyword: str, value: object) -> Callable[[Dataset], None]:
    return lambda dataset: setattr(dataset, keyword, value)


def _set_in(meaning: str, keyword: str, value: object) -> Callable[[Dataset], None]:
    return lambda dataset: setattr(_named(dataset, meaning), keyword, value)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (_number("Volume", 1.00001), "Anterior: Volume is"),
        (_number("Maximum 3D Diameter of a Mesh", 0.99999), "Anterior: Maximum 3D Diameter"),
        (_number("Attenuation Coefficient", 1.00001), "Anterior: Attenuation Coefficient is"),
        (_unit("Volume", "mm3"), "Volume is in mm3"),
        (_unit("Attenuation Coefficient", "1"), "Attenuation Coefficient is in 1"),
        (_code("Derivation", "373099004"), "mean or standard deviation is missing"),
        (_code("Finding", "1"), "its finding is"),
        (_code("Finding category", "1"), "its category is"),
        (_code("Laterality", "24028007"), "its laterality is coded 24028007, not 7771000"),
        (_drop("Laterality"), "Anterior: its laterality is coded not at all"),
        (_code("Finding Site", "1"), "Anterior: its finding site is coded 1, not 12738006"),
        (_drop("Finding Site"), "its finding site is coded not at all"),
        (_swap_tracking_uids, "Anterior: its Tracking ID is hippocampus 2 Posterior"),
        (_set_in("Tracking Unique Identifier", "UID", "1.2"), "the Tracking UID of Anterior"),
        (_other_segment, "its Segment Number is 2, not 1"),
        (_other_instance, r"refers to 1\.2\.9, which is not among its evidence"),
        (evidence_with("ReferencedSOPClassUID"), "2 instances of its evidence"),
        (_other_class, "which is not among its evidence"),
        (study_of_evidence, "42 instances of its evidence"),
        (_less_evidence, "1 instances of its evidence"),
        (_drop("Measurement Group"), "1 measurement groups for 2 Segments"),
        (_drop("Comment"), "that it is no medical device"),
        (_drop("Qualitative Evaluations"), "does not say that Tail was not found"),
        (_drop("Volume"), "lacks what a report must have"),
        (_set_in("Source Series for Segmentation", "UID", "1.2"), "its source Series is"),
        (_set("SeriesDescription", "Measurements"), "that it is for research"),
        (_set("VerificationFlag", "VERIFIED"), "its Verification Flag is VERIFIED"),
        (_set("PatientID", "P2"), "its PatientID is not the source's"),
        (_set("StudyInstanceUID", "1.2"), "its StudyInstanceUID is not the source's"),
        (_set("SOPInstanceUID", "1.2"), "its SOP Instance UID is"),
        (_set("PredecessorDocumentsSequence", None), "the reports that it takes the place of"),
        (_set("ContentSequence", None), "lacks what a report must have"),
    ],
)
def test_what_is_wrong_is_named_and_does_not_leave(
    answer: Answer,
    segmentation: ResultObject,
    report: ResultObject,
    spoil: Callable[[Dataset], None],
    sentence: str,
) -> None:
    verify_report(report, answer, [segmentation])
    dataset = dcmread(DicomBytesIO(report.content))
    spoil(dataset)
    with pytest.raises(Fatal, match=sentence):
        verify_report(replace(report, pieces=(file_bytes(dataset),)), answer, [segmentation])


def test_labels_that_changed_since_are_noticed(
    answer: Answer, segmentation: ResultObject, report: ResultObject
) -> None:
    array = answer.label_map.array.copy()
    array[2, 5, 3] = 0
    other = replace(answer, label_map=replace(answer.label_map, array=array))
    with pytest.raises(Fatal, match="Volume is"):
        verify_report(report, other, [segmentation])


def test_bytes_that_are_no_document_do_not_leave(
    answer: Answer, segmentation: ResultObject, report: ResultObject
) -> None:
    for content in (b"", b"nothing", report.content[:-200], report.content[:3000]):
        with pytest.raises(Fatal, match="the report is wrong and must not leave"):
            verify_report(replace(report, pieces=(content,)), answer, [segmentation])


@pytest.mark.parametrize(
    ("instances", "unit", "wrong"),
    [
        (make_series(), "1", "10"),
        (make_series(), "1", "1/s"),
        (make_ct(), "[hnsf'U]", "[hnsf'U]2"),
        (make_pet("BQML"), "Bq/ml", "Bq/ml2"),
        (make_pet("BQML"), "Bq/ml", "{counts}"),
        (make_pet("GML"), "g/ml{SUVbw}", "g/ml{SUVlbm}"),
        (make_pet("GML", SUVType="IBW"), "g/ml{SUVibw}", "g/ml{SUVibw"),
        (make_pet("CM2ML"), "cm2/ml{SUVbsa}", "g/ml{SUVbw}"),
        (make_pet("PROPCPS"), "{propcounts}/s", "{propcounts}"),
    ],
)
def test_a_unit_is_exactly_that_of_the_header(
    instances: list[Dataset], unit: str, wrong: str
) -> None:
    answer = answer_of(source_of(instances))
    segmentation = segmentation_of(answer)
    report = encode_report(answer, [segmentation], "")
    verify_report(report, answer, [segmentation])
    dataset = dcmread(DicomBytesIO(report.content))
    measured = [
        item.MeasuredValueSequence[0] for item in _items(dataset) if item.ValueType == "NUM"
    ]
    codes = [one.MeasurementUnitsCodeSequence[0] for one in measured]
    next(code for code in codes if code.CodeValue == unit).CodeValue = wrong
    with pytest.raises(Fatal, match=r"Anterior: .* is in "):
        verify_report(replace(report, pieces=(file_bytes(dataset),)), answer, [segmentation])
