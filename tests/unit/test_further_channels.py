"""What results say of a network that saw more than one Series, judged by dciodvfy and highdicom."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import highdicom
import numpy as np
import pytest
from pydicom import Dataset, dcmread

from node import pipeline
from node.core.errors import Fatal
from node.core.model import Model, Tell, tell_nobody
from node.core.result import Identity, SegForm
from node.core.volume import LabelMap, Volume
from node.dicom.results.answer import Answer, ResultObject
from node.dicom.results.report.encode import encode_report
from node.dicom.results.report.verify import verify_report
from node.dicom.results.segmentation.verify import verify_segmentations
from node.dicom.series import SourceSeries
from tests.answers import answer_of, file_bytes, segmentation_of
from tests.judges import NO_WARNINGS_OF_OURS, content_of, faults
from tests.models import make_model, source_of
from tests.series_factory import make_series

PROCESSED = "121322"


def flair(study: str | None = None) -> list[Dataset]:
    """Another Series of the patient, of the same Study where no other is named."""
    first, instances = make_series()[0], make_series(slices=10, name="flair")
    for one in instances:
        one.StudyInstanceUID = study or first.StudyInstanceUID
        one.FrameOfReferenceUID = first.FrameOfReferenceUID
    return instances


def answered(others: Sequence[Dataset] | None = None) -> Answer:
    further = source_of(flair() if others is None else others)
    return replace(answer_of(source_of(make_series())), others=(further,))


def read(one: ResultObject) -> Dataset:
    return dcmread(BytesIO(one.content))


def spoilt(one: ResultObject, spoil: Callable[[Dataset], object]) -> ResultObject:
    dataset = read(one)
    spoil(dataset)
    return replace(one, pieces=(file_bytes(dataset),))


def made(answer: Answer) -> tuple[ResultObject, ResultObject]:
    """Segmentation and report, after their gates."""
    segmentation = segmentation_of(answer)
    verify_segmentations([segmentation], answer, SegForm())
    report = encode_report(answer, [segmentation], "")
    verify_report(report, answer, [segmentation])
    return segmentation, report


def test_a_segmentation_lies_on_the_first_series_and_names_the_others_after_it() -> None:
    dataset = read(made(answered())[0])
    series = [item.SeriesInstanceUID for item in dataset.ReferencedSeriesSequence]
    assert series == [make_series()[0].SeriesInstanceUID, flair()[0].SeriesInstanceUID]
    images = dataset.SourceImageSequence
    assert len(images) == 30
    purposes = ["PurposeOfReferenceCodeSequence" in image for image in images]
    assert purposes == [False] * 20 + [True] * 10
    assert images[-1].PurposeOfReferenceCodeSequence[0].CodeValue == PROCESSED
    assert "StudiesContainingOtherReferencedInstancesSequence" not in dataset


def test_a_report_has_all_channels_in_its_evidence_and_its_image_library() -> None:
    _, report = made(answered())
    document = highdicom.sr.srread(BytesIO(report.content))
    (study,) = document.CurrentRequestedProcedureEvidenceSequence
    counts = [len(series.ReferencedSOPSequence) for series in study.ReferencedSeriesSequence]
    assert counts == [20, 10, 1]
    (library,) = _named(document, "Image Library")
    groups = _named(library, "Image Library Group")
    assert [len(_named(group, "Source")) for group in groups] == [20, 10]
    group = content_of(report).get_volumetric_roi_measurement_groups()[0]
    assert group.referenced_segment[1].value == make_series()[0].SeriesInstanceUID


def _named(parent: Dataset, meaning: str) -> list[Dataset]:
    return [
        item
        for item in parent.ContentSequence
        if item.ConceptNameCodeSequence[0].CodeMeaning == meaning
    ]


def test_a_series_of_another_study_is_named_as_such() -> None:
    segmentation, report = (read(one) for one in made(answered(flair("1.2.3.4"))))
    (item,) = segmentation.ReferencedSeriesSequence
    assert item.SeriesInstanceUID == make_series()[0].SeriesInstanceUID
    (study,) = segmentation.StudiesContainingOtherReferencedInstancesSequence
    assert study.StudyInstanceUID == "1.2.3.4"
    assert len(study.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 10
    studies = [study.StudyInstanceUID for study in report.CurrentRequestedProcedureEvidenceSequence]
    assert studies == [report.StudyInstanceUID, "1.2.3.4"]


def test_the_same_input_gives_the_same_bytes_in_whatever_order_it_came() -> None:
    one, other = made(answered()), made(answered(flair()[::-1]))
    assert [a.content for a in one] == [b.content for b in other]


@pytest.mark.parametrize("study", [None, "1.2.3.4"])
def test_dciodvfy_finds_no_fault_in_them(tmp_path: Path, study: str | None) -> None:
    files = [tmp_path / "seg.dcm", tmp_path / "sr.dcm"]
    for file, one in zip(files, made(answered(flair(study))), strict=True):
        file.write_bytes(one.content)
    alone = tmp_path / "alone.dcm"
    alone.write_bytes(made(replace(answered(), others=()))[0].content)
    assert faults(files[0]) <= faults(alone)
    assert faults(files[1]) <= NO_WARNINGS_OF_OURS


def _lose_the_purpose(dataset: Dataset) -> None:
    del dataset.SourceImageSequence[-1].PurposeOfReferenceCodeSequence


def _lose_a_group(dataset: Dataset) -> None:
    (library,) = _named(dataset, "Image Library")
    library.ContentSequence = list(library.ContentSequence)[:1]


def _lose_evidence(dataset: Dataset) -> None:
    (study,) = dataset.CurrentRequestedProcedureEvidenceSequence
    del study.ReferencedSeriesSequence[1]


@pytest.mark.parametrize(
    ("which", "spoil", "sentence"),
    [
        (0, lambda d: d.ReferencedSeriesSequence.pop(), "it refers to 20 Instances, not to the 30"),
        (0, lambda d: d.ReferencedSeriesSequence.reverse(), "its referenced Series is"),
        (0, lambda d: d.SourceImageSequence.pop(), "the Source Image Sequence does not name all"),
        (0, _lose_the_purpose, "the Source Image Sequence does not name all"),
        (1, _lose_evidence, "10 instances of its evidence"),
        (1, _lose_a_group, "its image library does not have all images"),
    ],
)
def test_a_result_that_does_not_name_all_channels_does_not_leave(
    which: int, spoil: Callable[[Dataset], object], sentence: str
) -> None:
    answer = answered()
    results = made(answer)
    wrong = spoilt(results[which], spoil)
    gates: list[Callable[[], None]] = [
        lambda: verify_segmentations([wrong], answer, SegForm()),
        lambda: verify_report(wrong, answer, results[:1]),
    ]
    with pytest.raises(Fatal, match=sentence):
        gates[which]()


class Nothing:
    """An engine that finds nothing."""

    def segment(
        self,
        volumes: Sequence[Volume],
        model: Model,
        tell: Tell = tell_nobody,
        probabilities: bool = False,
    ) -> LabelMap:
        first = volumes[0]
        array = np.zeros(first.array.shape, np.uint8)
        return LabelMap(array, first.affine, first.frame_of_reference_uid)


def test_the_answer_to_two_channels_has_what_was_used_of_both() -> None:
    model = replace(make_model(), channels=("T1", "FLAIR"))
    series: list[SourceSeries] = [source_of(make_series()), source_of(flair())]
    labelled = pipeline.label(series, model, Nothing(), pipeline.Unwatched())
    answer = pipeline.answer_of(labelled, series[0], model, Identity("a", "b"), 1e9)
    assert answer.source is series[0]
    (further,) = answer.others
    assert further.series_instance_uid == series[1].series_instance_uid
    assert len(further.instances) == 10
    made(answer)
    alone = pipeline.label(series[:1], make_model(), Nothing(), pipeline.Unwatched())
    assert alone.others == ()
