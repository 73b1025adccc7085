"""The report that leaves, judged by highdicom, dciodvfy and DCMTK."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from node.core.anatomy import Segment
from node.core.errors import Fatal
from node.core.model import InputRules, Profile
from node.core.names import SeriesInstanceUID, SOPInstanceUID
from node.core.result import Compression, ObjectRef, ResultKind, SegForm, SegType
from node.core.verdict import Verdict
from node.dicom.inbox import read_files
from node.dicom.results.answer import Answer, ResultObject
from node.dicom.results.report.encode import encode_report
from node.dicom.results.report.verify import verify_report
from node.dicom.results.segmentation.encode import encode_segmentations
from node.dicom.series import SourceSeries
from tests.answers import answer_of, read_back, segmentation_of, with_predecessors
from tests.assembly_table import real_series, with_uids
from tests.judges import content_of, faults_of, require_dcmtk_reads
from tests.models import (
    BRAIN,
    HIPPOCAMPUS,
    LEFT,
    SEGMENTS,
    STRUCTURE,
    boxes_in,
    make_model,
    source_of,
)
from tests.series_factory import make_ct, make_enhanced, make_pet, make_series
from tests.spheres import TILTED, sphere_series

ROOT = Path(__file__).parents[2]


def reported(answer: Answer) -> tuple[ResultObject, ResultObject]:
    """The verified report of an Answer, and the Segmentation it refers to."""
    segmentation = segmentation_of(answer)
    report = encode_report(answer, [segmentation], "")
    verify_report(report, answer, [segmentation])
    return report, segmentation


def test_highdicom_finds_each_group_by_the_tracking_uid_of_the_segmentation() -> None:
    answer = answer_of(source_of(make_series()))
    report, segmentation = reported(answer)
    content = content_of(report)
    segments = dcmread(BytesIO(segmentation.content)).SegmentSequence
    assert len(content.get_volumetric_roi_measurement_groups()) == len(segments) == 2
    for segment in segments:
        (group,) = content.get_volumetric_roi_measurement_groups(tracking_uid=segment.TrackingUID)
        (referenced,) = group.referenced_segment[0].ReferencedSOPSequence
        assert group.tracking_identifier == segment.TrackingID
        assert referenced.ReferencedSegmentNumber == segment.SegmentNumber
        assert referenced.ReferencedSOPInstanceUID == segmentation.ref.sop_instance_uid
        assert group.finding_type.value == HIPPOCAMPUS.value
        assert group.finding_category.value == STRUCTURE.value


def test_a_group_says_what_was_measured_in_which_unit() -> None:
    answer = answer_of(source_of(make_ct()))
    report, _ = reported(answer)
    group = content_of(report).get_volumetric_roi_measurement_groups()[0]
    found = [
        (m.name.value, m.derivation and m.derivation.meaning, m.unit.value)
        for m in group.get_measurements()
    ]
    assert found == [
        ("118565006", None, "ml"),
        ("L0JK", None, "mm"),
        ("112031", "Mean", "[hnsf'U]"),
        ("112031", "Standard Deviation", "[hnsf'U]"),
    ]
    inside = answer.volume.array[answer.label_map.array == 1]
    values = [measurement.value for measurement in group.get_measurements()]
    assert values[0] == pytest.approx(answer.label_map.volume_ml(1), rel=1e-6)
    assert values[2] == pytest.approx(float(inside.mean()), rel=1e-4)
    assert values[3] == pytest.approx(float(inside.std()), rel=1e-4)
    (site,) = group.finding_sites
    assert (site.value.value, site.laterality.value) == (BRAIN.value, LEFT.value)


@pytest.mark.parametrize(
    ("instances", "concept", "unit"),
    [
        (make_series(), "MR signal intensity", "1"),
        ([make_enhanced(make_series())], "MR signal intensity", "1"),
        (make_ct(RescaleType="HU"), "Attenuation Coefficient", "[hnsf'U]"),
        (make_pet("BQML"), "Nuclear Medicine Tomographic Activity", "Bq/ml"),
        (make_pet("CNTS"), "Nuclear Medicine Tomographic Activity", "{counts}"),
        (make_pet("GML"), "SUVbw", "g/ml{SUVbw}"),
        (make_pet("", RescaleType="GML"), "SUVbw", "g/ml{SUVbw}"),
        (make_pet("GML", SUVType="LBM"), "SUVlbm", "g/ml{SUVlbm}"),
        (make_pet("CM2ML"), "SUVbsa", "cm2/ml{SUVbsa}"),
    ],
)
def test_intensities_are_in_the_unit_that_the_header_states(
    instances: list[Dataset], concept: str, unit: str
) -> None:
    report, _ = reported(answer_of(source_of(instances)))
    for group in content_of(report).get_volumetric_roi_measurement_groups():
        intensities = group.get_measurements()[2:]
        assert {m.name.meaning for m in intensities} == {concept}
        assert {m.unit.value for m in intensities} == {unit}


@pytest.mark.parametrize(
    "instances",
    [make_ct(RescaleType="Z_EFF"), make_pet("1CM"), make_pet("GML", SUVType="BSA")],
    ids=["effective Z", "units without a name", "a type that is not of these units"],
)
def test_intensities_of_an_unknown_unit_are_left_out_and_it_says_so(
    instances: list[Dataset],
) -> None:
    report, _ = reported(answer_of(source_of(instances)))
    for group in content_of(report).get_volumetric_roi_measurement_groups():
        assert [m.unit.value for m in group.get_measurements()] == ["ml", "mm"]
    assert "Intensities are left out" in texts_of(report)


def texts_of(report: ResultObject) -> str:
    """All sentences at the root and below Qualitative Evaluations, one a line."""
    found, items = [], list(dcmread(BytesIO(report.content)).ContentSequence)
    for item in items:
        if item.ValueType == "TEXT":
            found.append(str(item.TextValue))
        elif item.ConceptNameCodeSequence[0].CodeMeaning == "Qualitative Evaluations":
            items += list(item.ContentSequence)
    return "\n".join(found)


def test_it_says_that_it_is_for_research_what_it_is_not_sure_of_and_what_it_did_not_find() -> None:
    model = replace(make_model(), profile=Profile.FAST, orientation_assumed=True)
    source = source_of(sphere_series(*TILTED))
    rules = InputRules(resample=True)
    answer = answer_of(source, model=model, rules=rules)
    report, _ = reported(replace(answer, verdict=Verdict.CONSISTENT))
    said = texts_of(report)
    for words in (
        "Research use; not a medical device",
        "profile fast: no mirroring",
        "Resampled: onto a regular grid",
        "Source whole: consistent",
        "assumed to be RAS",
        "No voxel belongs to Tail",
    ):
        assert words in said
    description = dcmread(BytesIO(report.content)).SeriesDescription
    assert description.startswith("Research use:")
    assert "(profile fast)" in description
    assert "(resampled)" in description
    assert len(description) <= 64


def test_a_network_that_found_nothing_is_reported_as_such() -> None:
    source = source_of(make_series())
    answer = answer_of(source, np.zeros((20, 24, 16), np.uint8))
    report, _ = reported(answer)
    content = content_of(report)
    assert content.get_volumetric_roi_measurement_groups() == []
    (evaluations,) = (
        item
        for item in dcmread(BytesIO(report.content)).ContentSequence
        if item.ConceptNameCodeSequence[0].CodeMeaning == "Qualitative Evaluations"
    )
    code, text = evaluations.ContentSequence
    assert code.ConceptCodeSequence[0].CodeMeaning == "Not detected"
    assert text.TextValue == "No voxel belongs to Anterior, Posterior, Tail"


def test_all_found_leaves_nothing_to_say_of_what_was_not() -> None:
    model = make_model(make_model().segments[:2])
    report, _ = reported(answer_of(source_of(make_series()), model=model))
    assert "No voxel" not in texts_of(report)


def test_the_device_is_the_node_with_its_model_and_another_model_is_another() -> None:
    source = source_of(make_series())
    devices = []
    for fingerprint in ("0123456789abcdef" * 4, "ff" * 32):
        model = replace(make_model(), fingerprint=fingerprint)
        report, _ = reported(answer_of(source, model=model))
        dataset = dcmread(BytesIO(report.content))
        (equipment,) = dataset.ContributingEquipmentSequence
        assert equipment.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
        assert equipment.Manufacturer == "Segnode"
        assert equipment.ManufacturerModelName == "Hippocampus"
        assert fingerprint[:12] in equipment.SoftwareVersions[1]
        (observer,) = content_of(report).get_observer_contexts()
        attributes = observer.observer_identifying_attributes
        assert attributes.uid == equipment.DeviceUID == dataset.DeviceUID
        devices.append(equipment.DeviceUID)
    assert devices[0] != devices[1]


def test_it_is_complete_unverified_and_preliminary() -> None:
    report, segmentation = reported(answer_of(source_of(make_series())))
    dataset = dcmread(BytesIO(report.content))
    assert dataset.SOPClassUID == report.ref.sop_class_uid == "1.2.840.10008.5.1.4.1.1.88.34"
    assert (dataset.CompletionFlag, dataset.VerificationFlag, dataset.PreliminaryFlag) == (
        "COMPLETE",
        "UNVERIFIED",
        "PRELIMINARY",
    )
    assert (dataset.Modality, dataset.SeriesNumber, dataset.InstanceNumber) == ("SR", 2003, 1)
    (study,) = dataset.CurrentRequestedProcedureEvidenceSequence
    source, made = study.ReferencedSeriesSequence
    assert len(source.ReferencedSOPSequence) == 20
    assert made.SeriesInstanceUID == segmentation.ref.series_instance_uid
    assert dataset.StudyInstanceUID == study.StudyInstanceUID


def test_a_successor_names_the_report_it_takes_the_place_of() -> None:
    earlier = ObjectRef(
        ResultKind.REPORT,
        "",
        "1.2.840.10008.5.1.4.1.1.88.34",
        SeriesInstanceUID("1.2.3"),
        SOPInstanceUID("1.2.3.4"),
    )
    other = replace(earlier, kind=ResultKind.CAPTURE, sop_instance_uid=SOPInstanceUID("1.2.3.5"))
    answer = with_predecessors(answer_of(source_of(make_series())), [other, earlier])
    report, _ = reported(answer)
    dataset = dcmread(BytesIO(report.content))
    (study,) = dataset.PredecessorDocumentsSequence
    (reference,) = study.ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert reference.ReferencedSOPInstanceUID == "1.2.3.4"
    assert study.StudyInstanceUID == dataset.StudyInstanceUID


@pytest.mark.parametrize(
    "form",
    [
        SegForm(SegType.LABELMAP),
        SegForm(SegType.LABELMAP, compression=Compression.RLE),
        SegForm(SegType.FRACTIONAL),
        SegForm(empty_frames=True),
        SegForm(max_frames=4),
    ],
    ids=lambda form: form.name,
)
def test_a_report_refers_to_the_segmentation_of_its_form_in_all_its_parts(form: SegForm) -> None:
    answer = answer_of(source_of(make_series()))
    shown = {s.number: (answer.label_map.array == s.number) * np.uint8(255) for s in SEGMENTS}
    answer = replace(answer, probabilities=shown)
    parts = encode_segmentations(answer, form)
    report = encode_report(answer, parts, form.name)
    verify_report(report, answer, parts)
    default, _ = reported(answer)
    assert report.ref.form == form.name
    assert report.ref.sop_instance_uid != default.ref.sop_instance_uid
    referred = [
        group.referenced_segment[0].ReferencedSOPSequence[0]
        for group in content_of(report).get_volumetric_roi_measurement_groups()
    ]
    assert [one.ReferencedSOPInstanceUID for one in referred] == [
        parts[0].ref.sop_instance_uid,
        parts[-1].ref.sop_instance_uid,
    ]
    assert {one.ReferencedSOPClassUID for one in referred} == {parts[0].ref.sop_class_uid}


def test_a_segment_that_no_segmentation_has_cannot_be_reported() -> None:
    answer = answer_of(source_of(make_series()))
    with pytest.raises(Fatal, match='no Segmentation has "hippocampus 1 Anterior"'):
        encode_report(answer, [], "")


def test_the_same_input_gives_the_same_bytes_again_and_in_another_process() -> None:
    code = (
        "import hashlib\n"
        "from tests.unit.test_report import *\n"
        "report, _ = reported(answer_of(source_of(make_series())))\n"
        "print(hashlib.sha256(report.content).hexdigest())\n"
    )
    digests = set()
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        digests.add(done.stdout)
        time.sleep(1.1)  # a clock that was read would show: times have whole seconds
    assert len(digests) == 1
    answer = answer_of(source_of(make_series()[::-1]))
    assert reported(answer)[0].content == reported(answer)[0].content


@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        ("ISO_IR 100", "Buc^Jérôme"),
        ("GB18030", "Wang^XiaoDong=王^小东"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    ],
)
@pytest.mark.parametrize("label", ["Hippocampus", "Hüftgelenk, 左"])
def test_names_survive_in_the_character_set_of_the_source_or_in_utf_8(
    character_set: str | list[str], name: str, label: str
) -> None:
    instances = make_series()
    for one in instances:
        one.SpecificCharacterSet, one.PatientName = character_set, name
    source = source_of([read_back(one) for one in instances])  # as from a disk
    model = make_model([Segment(1, label, STRUCTURE, HIPPOCAMPUS, (1, 2, 3))])
    answer = answer_of(source, boxes_in((20, 24, 16)) % 2, model=model)
    report, _ = reported(answer)
    dataset = dcmread(BytesIO(report.content))
    (group,) = content_of(report).get_volumetric_roi_measurement_groups()
    assert str(dataset.PatientName) == name
    assert group.tracking_identifier == f"hippocampus 1 {label}"
    if label.isascii():
        assert dataset.SpecificCharacterSet == character_set


@pytest.mark.parametrize("found", [True, False], ids=["labels", "nothing found"])
@pytest.mark.parametrize(
    "instances",
    [make_series(), make_ct(), make_pet("BQML"), [make_enhanced(make_series())]],
    ids=["MR", "CT", "PET", "enhanced MR"],
)
def test_dciodvfy_and_dcmtk_find_no_fault(
    tmp_path: Path, instances: list[Dataset], found: bool
) -> None:
    answer = answer_of(source_of(instances))
    if not found:
        answer = answer_of(source_of(instances), answer.label_map.array * 0)
    report, _ = reported(answer)
    (tmp_path / "report.dcm").write_bytes(report.content)
    assert faults_of(tmp_path / "report.dcm") == set()
    shown = require_dcmtk_reads(tmp_path / "report.dcm")
    assert "not a medical device" in shown
    assert ("Maximum 3D Diameter" in shown) is found


@pytest.mark.parametrize(
    "name",
    [
        "mr_hippocrop_1",
        "ct_philips_study/S2010",
        "mr_siemens_prone_sagittal",
        "dicom2nifti/philips_enhanced/anatomical/001",
    ],
)
def test_dciodvfy_finds_no_fault_in_the_report_of_a_real_series_that_is_not_its_own(
    shared_data: Path, tmp_path: Path, name: str
) -> None:
    source, path = _real(shared_data / "dicom" / name)
    model = replace(make_model(), title="Hippocampus " * 10)
    report, _ = reported(answer_of(source, model=model))
    (tmp_path / "report.dcm").write_bytes(report.content)
    assert faults_of(tmp_path / "report.dcm") - faults_of(path) == set()
    require_dcmtk_reads(tmp_path / "report.dcm")


def _real(folder: Path) -> tuple[SourceSeries, Path]:
    (real,) = real_series(folder)
    if "hippocrop" in folder.name:
        return read_files(SeriesInstanceUID(""), list(real.paths)), real.paths[0]
    return source_of(with_uids(real.instances)), real.paths[0]


def test_many_segments_on_a_large_map_are_reported_in_seconds() -> None:
    shape = (40, 256, 256)
    source = source_of(make_series(*shape))
    array = np.zeros(shape, np.uint8)
    for number in range(117):
        row, column = divmod(number, 12)
        array[2:38, 20 * row : 20 * row + 19, 20 * column : 20 * column + 18] = number + 1
    segments = [
        Segment(n, f"Segment {n}", STRUCTURE, HIPPOCAMPUS, (n, 9, 9)) for n in range(1, 118)
    ]
    answer = answer_of(source, array, model=make_model(segments))
    segmentation = segmentation_of(answer)
    started = time.process_time()
    report = encode_report(answer, [segmentation], "")
    assert time.process_time() - started < 10.0
    verify_report(report, answer, [segmentation])
