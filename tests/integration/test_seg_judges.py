"""Segmentations of real series in every form, as dciodvfy and dcmqi judge them: nothing is ours."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread

from node.core.model import InputRules
from node.core.result import Compression, SegForm, SegType
from node.core.volume import LabelMap
from node.dicom.assemble import Stack, stack
from node.dicom.planes import Plane, planes_of
from node.dicom.results.answer import Answer, ResultObject
from node.dicom.results.segmentation.encode import encode_segmentations
from node.dicom.results.segmentation.verify import verify_segmentations
from node.dicom.volumes import split
from tests.answers import answer_on_planes, file_bytes
from tests.assembly_table import Real, candidate_stack, real_series, with_uids
from tests.forms import decompressed, every_form, probabilities_of
from tests.judges import as_dcmqi_reads, faults, on_grid
from tests.models import SEGMENTS, make_model

SOURCES = {
    "CT": "ct_philips_study/S2010",
    "MR": "mr_hippocrop_1",
    "enhanced MR": "dicom2nifti/philips_enhanced/anatomical/001",
}
SOME_FORMS = (
    SegForm(),
    SegForm(empty_frames=True, max_frames=30),
    SegForm(compression=Compression.DEFLATED),
    SegForm(SegType.LABELMAP),
    SegForm(SegType.LABELMAP, compression=Compression.RLE),
    SegForm(SegType.FRACTIONAL, compression=Compression.RLE),
)


def whole(real: Real) -> Real:
    """With the UIDs that de-identification took away."""
    return Real(real.name, real.paths, tuple(with_uids(real.instances)))


def assembled(root: Path) -> Iterator[tuple[str, Answer]]:
    """An answer for every candidate volume of every real series that assembles as it is."""
    for real in map(whole, real_series(root)):
        planes = [plane for one in real.instances for plane in planes_of(one)]
        for index, candidate in enumerate(split(planes)):
            made = candidate_stack(real, index)
            if made is not None:
                yield f"{real.name} ({index + 1})", answer_on(real, made, candidate.planes)


def answer_on(real: Real, made: Stack, planes: Sequence[Plane]) -> Answer:
    """Boxes of three labels without any symmetry, from the first slice to the last."""
    slices, rows, columns = made.volume.array.shape
    array: NDArray[np.uint8] = np.zeros(made.volume.array.shape, np.uint8)
    array[1:, 5 : rows // 2, 3 : columns // 3] = 1
    array[:-1, rows // 2 : rows - 3, 4 : columns // 2] = 2
    array[slices // 2, -2, -1] = 5
    labels = LabelMap(array, made.volume.affine, made.volume.frame_of_reference_uid)
    chances = probabilities_of(labels)
    return answer_on_planes(labels, make_model(), real.source(), planes, probabilities=chances)


@cache
def one_answer(root: Path, name: str) -> tuple[Path, Answer]:
    """A file of one real series, and an answer on it."""
    (real,) = real_series(root / "dicom" / name)
    (_, answer), *_ = assembled(root / "dicom" / name)
    return real.paths[0], answer


def written(
    made: Sequence[ResultObject], answer: Answer, form: SegForm, folder: Path
) -> list[Path]:
    """The files, after the gate; none of the judges knows Deflated Image Frame Compression."""
    verify_segmentations(made, answer, form)
    paths = []
    for number, one in enumerate(made):
        paths.append(folder / f"{number}.dcm")
        deflated = form.compression is Compression.DEFLATED
        paths[-1].write_bytes(file_bytes(decompressed(one.content)) if deflated else one.content)
    return paths


def numbers_in(file: Path) -> dict[int, int]:
    """The Segment Number of each label."""
    labels = {segment.label: segment.number for segment in SEGMENTS}
    items = dcmread(file).SegmentSequence
    return {labels[one.SegmentLabel]: one.SegmentNumber for one in items if one.SegmentNumber}


def labels_as_dcmqi_reads(file: Path, answer: Answer) -> NDArray[np.uint8]:
    """One file on the grid of the label map, by label."""
    (image,) = as_dcmqi_reads(file, file.with_suffix(""))
    found = on_grid(image, answer.label_map)
    labels: NDArray[np.uint8] = np.zeros(found.shape, np.uint8)
    for label, number in numbers_in(file).items():
        labels[found == number] = label
    return labels


@pytest.mark.slow
@pytest.mark.parametrize("kind", [SegType.BINARY, SegType.LABELMAP])
def test_dcmqi_reads_the_same_voxels_at_the_same_place_from_every_series_that_assembles(
    shared_data: Path, tmp_path: Path, kind: SegType
) -> None:
    form, judged = SegForm(kind), set()
    for number, (name, answer) in enumerate(assembled(shared_data / "dicom")):
        folder = tmp_path / str(number)
        folder.mkdir()
        (file,) = written(encode_segmentations(answer, form), answer, form, folder)
        found = labels_as_dcmqi_reads(file, answer)
        assert np.array_equal(found, answer.label_map.array), name
        judged.add(name.split(" ")[0])
    assert {*SOURCES.values(), "mr_siemens_prone_sagittal", "ct_siemens_j2k_blank_uids"} < judged
    assert len(judged) > 25


@pytest.mark.parametrize(
    ("source_of", "form"),
    [
        *(("MR", form) for form in every_form()),
        *((name, form) for name in ("CT", "enhanced MR") for form in SOME_FORMS),
    ],
    ids=lambda value: value.name or "default" if isinstance(value, SegForm) else value,
)
def test_dciodvfy_and_dcmqi_find_no_fault_in_any_form(
    shared_data: Path, tmp_path: Path, source_of: str, form: SegForm
) -> None:
    source, answer = one_answer(shared_data, SOURCES[source_of])
    labels = np.zeros_like(answer.label_map.array)
    for file in written(encode_segmentations(answer, form), answer, form, tmp_path):
        assert faults(file) - faults(source) == set()
        if form.type is SegType.FRACTIONAL:
            assert answer.probabilities is not None
            images = as_dcmqi_reads(file, file.with_suffix(""), merge=False)
            for image, label in zip(images, numbers_in(file), strict=True):
                found = on_grid(image, answer.label_map)
                assert np.array_equal(found, answer.probabilities[label])
                labels[answer.label_map.array == label] = label
        else:
            labels += labels_as_dcmqi_reads(file, answer)
    assert np.array_equal(labels, answer.label_map.array)


def test_the_judges_tell_a_moved_and_a_changed_segmentation(
    shared_data: Path, tmp_path: Path
) -> None:
    _, answer = one_answer(shared_data, SOURCES["MR"])
    (made,) = encode_segmentations(answer, SegForm())
    file = tmp_path / "seg.dcm"
    dataset = dcmread(BytesIO(made.content))
    data = bytearray(dataset.PixelData)
    data[len(data) // 2] ^= 1
    dataset.PixelData = bytes(data)
    file.write_bytes(file_bytes(dataset))
    assert np.sum(labels_as_dcmqi_reads(file, answer) != answer.label_map.array) == 1
    moved = answer.label_map.affine.copy()
    moved[0, 3] += 0.02
    elsewhere = replace(answer, label_map=replace(answer.label_map, affine=moved))
    file = tmp_path / "again.dcm"
    file.write_bytes(made.content)
    with pytest.raises(AssertionError, match=r"sees it 0\.020 mm off"):
        labels_as_dcmqi_reads(file, elsewhere)
    del dataset.SegmentationType
    file.write_bytes(file_bytes(dataset))
    assert any("SegmentationType" in fault for fault in faults(file))


@pytest.mark.parametrize("kind", [SegType.BINARY, SegType.LABELMAP])
def test_dciodvfy_finds_no_fault_on_tilted_slices_and_dcmqi_reads_none(
    shared_data: Path, tmp_path: Path, kind: SegType
) -> None:
    """dcmqi wants slices along their normal; test_resample.py judges where these lie."""
    folder = shared_data / "dicom" / "dicom2nifti" / "failing" / "gantrytilting"
    (real,) = map(whole, real_series(folder))
    made = stack(real.source(), InputRules(resample=True))
    array = np.ones(made.volume.array.shape, np.uint8)
    predicted = LabelMap(array, made.volume.affine, made.volume.frame_of_reference_uid)
    labels, form = made.labels_on_planes(predicted), SegForm(kind)
    answer = answer_on_planes(labels, make_model(), real.source(), made.planes)
    (file,) = written(encode_segmentations(answer, form), answer, form, tmp_path)
    assert faults(file) - faults(real.paths[0]) == set()
    assert as_dcmqi_reads(file, tmp_path / "none") == []
