"""A Segmentation in every form, judged by highdicom and pydicom, and its parts by the gate."""

from dataclasses import replace
from io import BytesIO

import highdicom
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.uid import SegmentationStorage

from node.core.anatomy import Segment
from node.core.errors import Fatal
from node.core.result import Compression, ResultKind, SegForm, SegType
from node.core.volume import LabelMap
from node.dicom.results.answer import ResultObject
from node.dicom.results.segmentation.contents import parts_of
from node.dicom.results.segmentation.encode import encode_segmentations
from node.dicom.results.segmentation.pixels import pixel_data
from node.dicom.results.segmentation.verify import verify_segmentations
from tests.answers import answer_on_planes, file_bytes, segmentation_ref
from tests.forms import decompressed, every_form, make_answer
from tests.models import HIPPOCAMPUS, SEGMENTS, STRUCTURE, boxes, make_model, source_of
from tests.series_factory import make_series

LABEL_MAP_STORAGE = "1.2.840.10008.5.1.4.1.1.66.7"
LABELMAP = SegForm(SegType.LABELMAP)
FRACTIONAL = SegForm(SegType.FRACTIONAL)


def as_highdicom_reads(one: ResultObject, labels: LabelMap) -> NDArray[np.generic]:
    """On the grid of the labels; Segments are told apart by the last axis in a FRACTIONAL one."""
    read = highdicom.seg.segread(BytesIO(file_bytes(decompressed(one.content))))
    fractional = read.SegmentationType == "FRACTIONAL"
    volume = read.get_volume(combine_segments=not fractional, rescale_fractional=False)
    grid = highdicom.Volume(labels.array, labels.affine, "PATIENT")
    found: NDArray[np.generic] = volume.match_geometry(grid).array
    return found


@pytest.mark.parametrize("columns", [16, 15, 13], ids=["whole bytes", "15 columns", "13 columns"])
@pytest.mark.parametrize("form", every_form(), ids=lambda form: form.name or "default")
def test_highdicom_reads_what_was_answered_from_every_form(form: SegForm, columns: int) -> None:
    answer = make_answer(columns)
    objects = encode_segmentations(answer, form)
    verify_segmentations(objects, answer, form)
    labels, found = answer.label_map, np.zeros_like(answer.label_map.array)
    for one in objects:
        header = dcmread(BytesIO(one.content))
        names = {s.SegmentLabel: s.SegmentNumber for s in header.SegmentSequence}
        array = as_highdicom_reads(one, labels)
        for segment in (s for s in SEGMENTS if s.label in names):
            number = names[segment.label]
            if form.type is SegType.FRACTIONAL:
                assert answer.probabilities is not None
                assert np.array_equal(array[..., number - 1], answer.probabilities[segment.number])
                found[labels.array == segment.number] = segment.number
            else:
                found[array == number] = segment.number
    assert np.array_equal(found, labels.array)


@pytest.mark.parametrize("form", every_form(), ids=lambda form: form.name or "default")
def test_the_same_answer_gives_the_same_bytes_and_each_form_its_own_uids(form: SegForm) -> None:
    first, again = (encode_segmentations(make_answer(), form) for _ in range(2))
    assert [one.content for one in first] == [one.content for one in again]
    assert [one.size for one in first] == [len(one.content) for one in first]
    for number, one in enumerate(first, start=1):
        uids = make_answer().uids(ResultKind.SEGMENTATION, form.name, number)
        header = dcmread(BytesIO(one.content))
        assert (one.ref.kind, one.ref.form) == (ResultKind.SEGMENTATION, form.name)
        assert header.SOPInstanceUID == one.ref.sop_instance_uid == uids.sop_instance_uid
        assert header.SeriesInstanceUID == one.ref.series_instance_uid == uids.series_instance_uid
        assert header.SOPClassUID == header.file_meta.MediaStorageSOPClassUID
        assert header.SOPClassUID == one.ref.sop_class_uid
        assert header.InstanceNumber == number


def test_no_two_forms_share_an_object() -> None:
    answer, forms = make_answer(), every_form()
    refs = [one.ref for form in forms for one in encode_segmentations(answer, form)]
    assert len({ref.sop_instance_uid for ref in refs}) == len(refs)
    assert len({ref.series_instance_uid for ref in refs}) == len(forms)


@pytest.mark.parametrize("rle", [False, True], ids=["native", "RLE"])
def test_a_label_map_is_as_highdicom_would_have_written_it(rle: bool) -> None:
    answer = make_answer()
    form = replace(LABELMAP, compression=Compression.RLE if rle else Compression.NONE)
    (made,) = encode_segmentations(answer, form)
    ours = dcmread(BytesIO(made.content))
    theirs = highdicom.seg.Segmentation(
        source_images=list(answer.source.instances),
        pixel_array=answer.label_map.array,
        segmentation_type="LABELMAP",
        segment_descriptions=list(highdicom.seg.segread(BytesIO(made.content)).SegmentSequence[1:]),
        series_instance_uid=made.ref.series_instance_uid,
        series_number=1003,
        sop_instance_uid=made.ref.sop_instance_uid,
        instance_number=1,
        manufacturer="Segnode",
        manufacturer_model_name="Segnode",
        software_versions=ours.SoftwareVersions,
        device_serial_number="0123456789abcdef",
        series_description="Segmentation: Hippocampus",
        content_label="SEGMENTATION",
        content_description="Research use; not a medical device",
        transfer_syntax_uid=ours.file_meta.TransferSyntaxUID,
    )
    buffer = BytesIO()
    theirs.save_as(buffer)
    buffer.seek(0)
    read = dcmread(buffer)
    assert read.SOPClassUID == ours.SOPClassUID == LABEL_MAP_STORAGE
    elements = {*ours.keys(), *read.keys()}
    differing = {(ours.get(t) or read[t]).keyword for t in elements if ours.get(t) != read.get(t)}
    assert differing == {
        "ContentCreatorName",
        "ContentDate",
        "ContentTime",
        "ContributingEquipmentSequence",
        "DeviceUID",
        "DimensionIndexSequence",
        "DimensionOrganizationSequence",
        "DimensionOrganizationType",  # Type 3, PS3.3 C.7.6.17: 3D there
        "InstanceCreationDate",
        "InstanceCreationTime",
        "PerFrameFunctionalGroupsSequence",  # planes run against the normal there
        "PixelData",
        "SeriesDate",
        "SeriesTime",
    }
    assert _by_position(ours) == _by_position(read)


def _by_position(dataset: Dataset) -> dict[tuple[float, ...], tuple[str, bytes]]:
    """Functional groups but the place in the file, and voxels, by position."""
    found = {}
    for frame, voxels in zip(
        dataset.PerFrameFunctionalGroupsSequence, dataset.pixel_array, strict=True
    ):
        del frame.FrameContentSequence
        position = tuple(frame.PlanePositionSequence[0].ImagePositionPatient)
        found[position] = (frame.to_json(), voxels.tobytes())
    return found


@pytest.mark.parametrize(("count", "bits"), [(255, 8), (256, 16)])
@pytest.mark.parametrize("compression", list(Compression))
def test_a_label_map_has_16_bits_where_a_byte_cannot_count_its_segments(
    count: int, bits: int, compression: Compression
) -> None:
    source = source_of(make_series())
    labels = boxes(source)
    array = np.zeros(labels.array.shape, np.uint16)
    array.reshape(-1)[: count * 3 : 3] = np.arange(count) * 7 + 5
    segments = [
        Segment(n * 7 + 5, f"label {n}", STRUCTURE, HIPPOCAMPUS, (9, 9, 9)) for n in range(count)
    ]
    answer = answer_on_planes(replace(labels, array=array), make_model(segments), source)
    form = replace(LABELMAP, compression=compression)
    (made,) = encode_segmentations(answer, form)
    verify_segmentations([made], answer, form)
    assert dcmread(BytesIO(made.content)).BitsAllocated == bits
    found = as_highdicom_reads(made, answer.label_map).astype(int)
    assert np.array_equal(np.where(found > 0, (found - 1) * 7 + 5, 0), array)


def test_an_object_is_split_by_groups_of_whole_segments_each_numbered_from_one() -> None:
    answer = make_answer()
    whole, split = (encode_segmentations(answer, SegForm(max_frames=n)) for n in (14, 13))
    assert [one.warnings for one in (*whole, *split)] == [(), (), ()]
    headers = [dcmread(BytesIO(one.content)) for one in split]
    assert [int(one.NumberOfFrames) for one in headers] == [6, 8]
    assert [[s.SegmentNumber for s in one.SegmentSequence] for one in headers] == [[1], [1]]
    assert [one.SegmentSequence[0].SegmentLabel for one in headers] == ["Anterior", "Posterior"]
    assert len({one.SeriesInstanceUID for one in headers}) == 1
    tracked = [one.SegmentSequence[0].TrackingUID for one in headers]
    in_whole = dcmread(BytesIO(whole[0].content)).SegmentSequence
    assert tracked == [item.TrackingUID for item in in_whole]
    assert tracked == [answer.tracking_uid(1), answer.tracking_uid(2)]


def test_a_segment_with_too_many_frames_stands_alone_and_says_so() -> None:
    answer, form = make_answer(), SegForm(max_frames=7)
    first, second = encode_segmentations(answer, form)
    verify_segmentations([first, second], answer, form)
    assert first.warnings == ()
    assert second.warnings == (
        'the Segment "Posterior" alone has 8 frames, more than max_frames = 7: '
        "a viewer may refuse it",
    )


def test_a_label_map_is_split_where_the_slices_of_its_segments_are_too_many() -> None:
    answer = make_answer()
    sizes = {
        limit: [
            int(dcmread(BytesIO(one.content)).NumberOfFrames)
            for one in encode_segmentations(answer, replace(LABELMAP, max_frames=limit))
        ]
        for limit in (11, 10)
    }
    assert sizes == {11: [11], 10: [6, 8]}


@pytest.mark.parametrize("kind", list(SegType))
@pytest.mark.parametrize("keep", [False, True])
def test_nothing_found_is_a_result_in_every_form(kind: SegType, keep: bool) -> None:
    answer = make_answer()
    nothing = replace(answer.label_map, array=answer.label_map.array * 0)
    impossible = {s.number: np.zeros(nothing.array.shape, np.uint8) for s in SEGMENTS}
    answer = replace(answer, label_map=nothing, probabilities=impossible)
    form = SegForm(kind, empty_frames=keep)
    (made,) = encode_segmentations(answer, form)
    verify_segmentations([made], answer, form)
    header = dcmread(BytesIO(made.content))
    labels = [item.SegmentLabel for item in header.SegmentSequence]
    assert labels[kind is SegType.LABELMAP :] == [segment.label for segment in SEGMENTS]
    each = 20 if keep else 1
    assert header.NumberOfFrames == each * (1 if kind is SegType.LABELMAP else len(SEGMENTS))


def test_the_probability_of_a_region_that_others_cover_says_that_it_is_of_the_whole() -> None:
    answer = make_answer()
    covered = tuple(replace(one, covered=one.number == 1) for one in SEGMENTS)
    answer = replace(answer, model=make_model(covered))
    for form in (FRACTIONAL, LABELMAP, SegForm()):
        (made,) = encode_segmentations(answer, form)
        verify_segmentations([made], answer, form)
        items = dcmread(BytesIO(made.content)).SegmentSequence
        said = [s.SegmentLabel for s in items if "whole region" in s.get("SegmentDescription", "")]
        assert said == (["Anterior"] if form is FRACTIONAL else [])
    (made,) = encode_segmentations(replace(answer, model=make_model()), FRACTIONAL)
    with pytest.raises(Fatal, match="Segment 1 does not say which part of a region it shows"):
        verify_segmentations([made], answer, FRACTIONAL)


def test_a_fractional_segmentation_needs_probabilities_and_says_what_to_set() -> None:
    answer = make_answer()
    with pytest.raises(Fatal, match=r"hippocampus gave labels without probabilities.* set prob"):
        encode_segmentations(replace(answer, probabilities=None), FRACTIONAL)
    some = dict(answer.probabilities or {})
    del some[2]
    with pytest.raises(Fatal, match=r"probabilities of label 2 \(Posterior\) are absent"):
        encode_segmentations(replace(answer, probabilities=some), FRACTIONAL)


def test_what_no_transfer_syntax_allows_is_no_form() -> None:
    with pytest.raises(ValueError, match="RLE Lossless holds whole bytes"):
        SegForm(SegType.BINARY, compression=Compression.RLE)
    with pytest.raises(ValueError, match="max_frames is -1"):
        SegForm(max_frames=-1)


def test_frames_that_together_exceed_an_element_are_refused_and_say_what_to_do() -> None:
    """40,000 empty frames of 1024×1024; they are one and the same piece."""
    source = source_of(make_series(slices=2))
    labels = replace(boxes(source_of(make_series())), array=np.zeros((2, 24, 16), np.uint8))
    segments = [
        Segment(n, f"label {n}", STRUCTURE, HIPPOCAMPUS, (9, 9, 9)) for n in range(1, 20_001)
    ]
    answer = answer_on_planes(labels, make_model(segments), source)
    (part,) = parts_of(answer, SegForm(empty_frames=True))
    wide = replace(labels, array=np.zeros((2, 1024, 1024), np.uint8))
    with pytest.raises(Fatal, match=r"40000 frames are 5.2 GB.*leave empty frames out, or set max"):
        pixel_data(replace(answer, label_map=wide), part, SegForm(empty_frames=True))


def test_only_earlier_segmentations_are_predecessors_by_their_own_sop_class() -> None:
    earlier = (
        segmentation_ref("1.2.3"),
        replace(segmentation_ref("1.2.4"), sop_class_uid=LABEL_MAP_STORAGE),
        segmentation_ref("1.2.5", kind=ResultKind.REPORT),
    )
    answer = replace(make_answer(), predecessors=earlier)
    (made,) = encode_segmentations(answer, LABELMAP)
    verify_segmentations([made], answer, LABELMAP)
    items = dcmread(BytesIO(made.content)).ReferencedImageSequence
    assert [(item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID) for item in items] == [
        (SegmentationStorage, "1.2.3"),
        (LABEL_MAP_STORAGE, "1.2.4"),
    ]
    assert items[0].PurposeOfReferenceCodeSequence[0].CodeValue == "121348"
    with pytest.raises(Fatal, match="names 2 predecessors, and not the 0 it has"):
        verify_segmentations([made], replace(answer, predecessors=()), LABELMAP)
