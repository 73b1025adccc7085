"""The gate before delivery: a report is read again and compared with labels and Segmentations.

Nothing here is shared with the encoder: the tree is walked with pydicom, measurements are counted
again by code of their own.
"""

from collections.abc import Container, Iterator, Sequence
from io import BytesIO

from pydicom import Dataset, dcmread
from pydicom.uid import Comprehensive3DSRStorage

from node.core.errors import Fatal
from node.core.result import ObjectRef, ResultKind
from node.dicom.results.answer import Answer, ResultObject
from node.dicom.results.documents.tree import every, hierarchy, only, referred
from node.dicom.results.gate import letters, named, require_equal, require_same_patient
from node.dicom.results.report.recount import count_again
from node.dicom.results.report.verify_groups import require_groups, wrong

_LIBRARY = ("111028", "DCM")
_COMMENT = ("121106", "DCM")
_FINDING = ("121071", "DCM")
_EVALUATIONS = ("C0034375", "UMLS")
_OBSERVER_UID = ("121012", "DCM")


def verify_report(
    report: ResultObject, answer: Answer, segmentations: Sequence[ResultObject]
) -> None:
    """Whether the file says what the labels and the Segmentations say.

    Each number must agree to six digits, each reference must lead somewhere, each Segment with a
    voxel must be there once under its own Tracking UID.
    Raises Fatal saying what is wrong: a bug of ours.
    """
    try:
        dataset = dcmread(BytesIO(report.content))
        _require_identity(dataset, report, answer)
        _require_references(dataset, answer, segmentations)
        counted = count_again(answer.label_map, answer.predicted, answer.volume)
        _require_words(dataset, answer, counted)
        require_groups(dataset, answer, segmentations, counted)
    except Fatal:
        raise
    except Exception as error:  # broken bytes make the parser raise almost anything
        raise wrong(f"it lacks what a report must have: {error!r}") from error


def _require_identity(dataset: Dataset, report: ResultObject, answer: Answer) -> None:
    """Same patient and Study, its own UIDs, and nobody said that it was verified."""
    require_same_patient(dataset, answer.first, wrong)
    uids = answer.uids(ResultKind.REPORT, report.ref.form)
    stated = {
        "SOP Class": (dataset.SOPClassUID, Comprehensive3DSRStorage),
        "SOP Class by name": (report.ref.sop_class_uid, Comprehensive3DSRStorage),
        "SOP Instance UID": (dataset.SOPInstanceUID, uids.sop_instance_uid),
        "UID by name": (report.ref.sop_instance_uid, uids.sop_instance_uid),
        "Series Instance UID": (dataset.SeriesInstanceUID, uids.series_instance_uid),
        "template": (dataset.ContentTemplateSequence[0].TemplateIdentifier, "1500"),
        "Verification Flag": (dataset.VerificationFlag, "UNVERIFIED"),
        "observer": (
            only(dataset, _OBSERVER_UID).UID,
            dataset.ContributingEquipmentSequence[0].DeviceUID,
        ),
    }
    require_equal(stated, wrong)


def _require_references(
    dataset: Dataset, answer: Answer, segmentations: Sequence[ResultObject]
) -> None:
    """The evidence is the source and the Segmentations; nothing else is referred to."""
    study = str(answer.first.StudyInstanceUID)
    images = [*_instances(answer), *(one for series in answer.others for one in series.instances)]
    expected = sorted(
        {
            *map(named, images),
            *((study, *_of_result(one.ref)) for one in segmentations),
        }
    )
    evidence = hierarchy(dataset.CurrentRequestedProcedureEvidenceSequence)
    if evidence != expected:
        count = len(set(evidence).symmetric_difference(expected))
        raise wrong(f"{count} instances of its evidence are wrong or missing")
    for reference in referred(dataset):
        if reference not in {known[2:] for known in evidence}:
            raise wrong(f"it refers to {reference[1]}, which is not among its evidence")
    library = {reference for one in every(dataset, _LIBRARY) for reference in referred(one)}
    if library != {named(one)[2:] for one in images}:
        raise wrong("its image library does not have all images that the network saw, or has more")
    earlier = [
        (study, *_of_result(ref)) for ref in answer.predecessors if ref.kind is ResultKind.REPORT
    ]
    if hierarchy(dataset.get("PredecessorDocumentsSequence") or []) != sorted(earlier):
        raise wrong("it does not name the reports that it takes the place of")


def _instances(answer: Answer) -> Iterator[Dataset]:
    """All that the labels lie on."""
    used = {plane.sop_instance_uid for plane in answer.planes}
    for one in answer.source.instances:
        if one.get("SOPInstanceUID") in used:
            yield one


def _of_result(ref: ObjectRef) -> tuple[str, str, str]:
    return str(ref.series_instance_uid), ref.sop_class_uid, str(ref.sop_instance_uid)


def _require_words(dataset: Dataset, answer: Answer, counted: Container[int]) -> None:
    """What people must read: that it is for research, and what the network did not find."""
    comments = [str(item.TextValue) for item in every(dataset, _COMMENT)]
    if not any("not a medical device" in text for text in comments):
        raise wrong("it does not say that it is no medical device")
    if not str(dataset.SeriesDescription).startswith("Research use"):
        raise wrong("its Series Description does not say that it is for research")
    if answer.label_map.positions is not None and not any("egular grid" in c for c in comments):
        raise wrong("it does not say that the slices were resampled")
    missing = [segment for segment in answer.model.segments if segment.number not in counted]
    said = " ".join(
        str(item.TextValue)
        for evaluations in every(dataset, _EVALUATIONS)
        for item in every(evaluations, _FINDING)
        if item.ValueType == "TEXT"
    )
    for segment in missing:
        if letters(segment.label) not in letters(said):
            raise wrong(f"it does not say that {segment.label} was not found")
