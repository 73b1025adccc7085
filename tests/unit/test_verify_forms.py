"""The gate on every form: what the writer makes passes, one wrong voxel or promise is named."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread

from node.core.anatomy import Segment
from node.core.errors import Fatal
from node.core.result import Compression, ResultKind, SegForm, SegType
from node.core.volume import LabelMap
from node.dicom.assemble import assemble
from node.dicom.results.answer import Answer, ResultObject
from node.dicom.results.segmentation.encode import encode_segmentations
from node.dicom.results.segmentation.verify import verify_segmentations
from tests.answers import Named, answer_on_planes, file_bytes
from tests.forms import decompressed, every_form, make_answer
from tests.models import HIPPOCAMPUS, RULES, STRUCTURE, make_model, source_of
from tests.series_factory import make_series

LABELMAP, FRACTIONAL = SegForm(SegType.LABELMAP), SegForm(SegType.FRACTIONAL)
SPLIT = SegForm(max_frames=10)
KEPT = SegForm(empty_frames=True)
RLE = replace(LABELMAP, compression=Compression.RLE)
DEFLATED = SegForm(compression=Compression.DEFLATED)


def changed(answer: Answer) -> Answer:
    """One voxel of the answer is another, in the labels and in the probabilities."""
    array = answer.label_map.array.copy()
    array[7, 10, 6] = 0 if array[7, 10, 6] else 2
    chances = {n: p.copy() for n, p in (answer.probabilities or {}).items()}
    chances[2][7, 10, 6] ^= 1
    return replace(answer, label_map=replace(answer.label_map, array=array), probabilities=chances)


@pytest.mark.parametrize("form", every_form(), ids=lambda form: form.name or "default")
def test_one_voxel_that_differs_is_caught_in_every_form(form: SegForm) -> None:
    answer = make_answer()
    objects = encode_segmentations(answer, form)
    with pytest.raises(Fatal, match=r"1 voxels differ from the .*first is .*10, 6\)"):
        verify_segmentations(objects, changed(answer), form)


@pytest.mark.parametrize("form", every_form(), ids=lambda form: form.name or "default")
def test_no_byte_of_the_frames_may_be_lost_or_added(form: SegForm) -> None:
    answer = make_answer()
    *rest, last = encode_segmentations(answer, form)
    for wrong in (last.content[:-2], last.content + b"\0\0"):
        with pytest.raises(Fatal, match="must not leave"):
            verify_segmentations([*rest, replace(last, pieces=(wrong,))], answer, form)


@pytest.mark.parametrize("form", every_form(), ids=lambda form: form.name or "default")
def test_a_form_is_not_taken_for_another(form: SegForm) -> None:
    answer = make_answer()
    objects = encode_segmentations(answer, form)
    for other in every_form():
        if other != form:
            with pytest.raises(Fatal, match="must not leave"):
                verify_segmentations(objects, answer, other)


def spoilt(
    objects: Sequence[ResultObject], spoil: Callable[[Dataset], object]
) -> list[ResultObject]:
    """The first of them, spoilt; the rest as they are."""
    dataset = dcmread(BytesIO(objects[0].content))
    spoil(dataset)
    return [replace(objects[0], pieces=(file_bytes(dataset),)), *objects[1:]]


def _set(keyword: str, value: object) -> Callable[[Dataset], object]:
    return lambda dataset: setattr(dataset, keyword, value)


def _swap_frames(dataset: Dataset) -> None:
    """Two frames, with all that is said of them: the same labels in another order."""
    groups, data = dataset.PerFrameFunctionalGroupsSequence, dataset.PixelData
    groups[0], groups[1] = groups[1], groups[0]
    size = dataset.Rows * dataset.Columns // 8
    dataset.PixelData = data[size : 2 * size] + data[:size] + data[2 * size :]


def _lose_the_background(dataset: Dataset) -> None:
    del dataset.SegmentSequence[0]


def _lose_the_region(dataset: Dataset) -> None:
    del dataset.SegmentSequence[0].AnatomicRegionSequence


def _lose_the_laterality(dataset: Dataset) -> None:
    kind = dataset.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0]
    del kind.SegmentedPropertyTypeModifierCodeSequence


def _show_another_segment(dataset: Dataset) -> None:
    dataset.PixelData = dataset.PixelData[:-1] + b"\3"


@pytest.mark.parametrize(
    ("form", "spoil", "sentence"),
    [
        (LABELMAP, _set("PixelPaddingValue", 1), "Pixel Padding Value is 1, not 0"),
        (LABELMAP, _lose_the_background, "first Segment is 1, and not the background"),
        (LABELMAP, _show_another_segment, "shows the unknown Segment 3"),
        (LABELMAP, _set("SOPClassUID", "1.2.3"), "SOP Class is 1.2.3, not"),
        (FRACTIONAL, _set("MaximumFractionalValue", 100), "Fractional Value is 100, not 255"),
        (FRACTIONAL, _set("SegmentationFractionalType", "OCCUPANCY"), "Type is OCCUPANCY"),
        (SPLIT, _set("InstanceNumber", 2), "Instance Number is 2, not 1"),
        (SPLIT, _set("SOPInstanceUID", "1.2.3"), "SOP Instance is 1.2.3, not"),
        (SPLIT, _set("SeriesInstanceUID", "1.2.3"), "Series is 1.2.3, not"),
        (SegForm(), _swap_frames, "do not go by segment, then plane"),
        (SegForm(), _lose_the_region, "Segment 1 is coded not at all, not 12738006"),
        (SegForm(), _lose_the_laterality, "Segment 1 is coded not at all, not 7771000"),
    ],
)
def test_a_broken_promise_is_caught_and_named(
    form: SegForm, spoil: Callable[[Dataset], object], sentence: str
) -> None:
    answer = make_answer()
    objects = encode_segmentations(answer, form)
    with pytest.raises(Fatal, match=sentence):
        verify_segmentations(spoilt(objects, spoil), answer, form)


def test_frames_of_another_number_than_promised_are_caught() -> None:
    uids = make_answer().uids(ResultKind.SEGMENTATION)
    answer = replace(make_answer(), identity=Named("", "", uids))  # the same for every form

    def refuse(made: SegForm, form: SegForm, sentence: str) -> None:
        objects = [
            replace(one, ref=replace(one.ref, form=form.name))
            for one in encode_segmentations(answer, made)
        ]
        with pytest.raises(Fatal, match=sentence):
            verify_segmentations(objects, answer, form)

    refuse(SegForm(), SPLIT, "it has 14 frames, and 10 are allowed")
    refuse(SegForm(), KEPT, "it has 14 frames: empty ones are left out, and were to be kept")
    refuse(KEPT, SegForm(), "Segment 1 has 14 empty frames, to be left out")
    refuse(SegForm(), DEFLATED, "Transfer Syntax is 1.2.840.10008.1.2.1, not")
    refuse(RLE, LABELMAP, "Transfer Syntax is 1.2.840.10008.1.2.5, not")


def test_a_lost_part_is_caught_and_so_is_one_that_comes_twice() -> None:
    answer = make_answer()
    first, second = encode_segmentations(answer, SPLIT)
    with pytest.raises(Fatal, match="it has 1 Segments, not 2"):
        verify_segmentations([first], answer, SPLIT)
    with pytest.raises(Fatal, match="SOP Instance is"):
        verify_segmentations([second, first], answer, SPLIT)
    with pytest.raises(Fatal, match="must not leave"):
        verify_segmentations([first, second, second], answer, SPLIT)


def test_a_probability_without_a_frame_is_caught() -> None:
    answer = make_answer()
    objects = encode_segmentations(answer, FRACTIONAL)
    more = {n: p.copy() for n, p in (answer.probabilities or {}).items()}
    more[1][19, 3, 3] = 7
    with pytest.raises(Fatal, match="slice 19 of Anterior has probabilities and no frame"):
        verify_segmentations(objects, replace(answer, probabilities=more), FRACTIONAL)


def test_every_byte_of_a_compressed_frame_counts() -> None:
    """Where a byte is another the gate says Fatal and nothing else, or every voxel is as it was."""
    answer = make_answer()
    for form in (RLE, DEFLATED):
        (made,) = encode_segmentations(answer, form)
        content = made.content
        start = content.index(b"\xe0\x7f\x10\x00OB")
        for at in np.random.default_rng(5).integers(start, len(content), 60).tolist():
            wrong = bytearray(content)
            wrong[at] ^= 0x41
            with suppress(Fatal):
                verify_segmentations([replace(made, pieces=(bytes(wrong),))], answer, form)
                untouched = decompressed(bytes(wrong)).pixel_array
                assert np.array_equal(untouched, decompressed(content).pixel_array)


@settings(deadline=None, max_examples=60)
@given(
    form=st.sampled_from(every_form()),
    shape=st.tuples(st.integers(2, 7), st.integers(1, 9), st.integers(1, 9)),
    labels=st.lists(st.sampled_from((1, 2, 3, 7, 255, 256, 700)), unique=True, min_size=1),
    density=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    seed=st.integers(0, 2**31),
)
def test_any_answer_passes_in_any_form(
    form: SegForm, shape: tuple[int, int, int], labels: list[int], density: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    source = source_of(make_series(voxels=np.zeros(shape, np.uint16)))
    grid = assemble(source, RULES)
    array = (random.choice(labels, shape) * (random.random(shape) < density)).astype(np.uint16)
    chances = {n: ((array == n) * random.integers(0, 256, shape)).astype(np.uint8) for n in labels}
    segments = [Segment(n, f"label {n}", STRUCTURE, HIPPOCAMPUS, (9, 9, 9)) for n in labels]
    answer = answer_on_planes(
        LabelMap(array, grid.affine, grid.frame_of_reference_uid),
        make_model(segments),
        source,
        probabilities=chances,
    )
    verify_segmentations(encode_segmentations(answer, form), answer, form)
