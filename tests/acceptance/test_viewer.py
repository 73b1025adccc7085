"""Seen in a real viewer: what OHIF draws of a Segmentation, against its label map.

SCREENSHOT=docs/viewer.png writes the picture of the README.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import highdicom
import numpy as np
import pytest
from highdicom.color import CIELabColor
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.filebase import DicomBytesIO

from node.core.model import InputRules
from node.core.result import SegForm, SegType
from node.core.volume import LabelMap
from node.dicom.assemble import assemble
from node.dicom.results.segmentation.encode import encode_segmentations
from tests.answers import answer_on_planes
from tests.models import make_model, source_of
from tests.peers import DEMO_SERIES, NodeProcess, Orthanc, eventually, storescu
from tests.viewer.ohif import Ohif
from tests.viewer.picture import Colour

Labels = NDArray[np.uint8]

pytestmark = pytest.mark.slow


@dataclass(frozen=True, eq=False)
class Shown:
    """A Segmentation at the PACS: its source, slice by slice, and the labels it must show."""

    source: Sequence[Dataset]
    segmentation: Dataset
    labels: Labels

    @property
    def names(self) -> list[str]:
        return [str(one.SegmentLabel) for one in self.segmentation.SegmentSequence]

    @property
    def colours(self) -> list[Colour]:
        return [_rgb(one) for one in self.segmentation.SegmentSequence]

    @property
    def spacing_mm(self) -> tuple[float, float]:
        rows, columns = self.source[0].PixelSpacing
        return float(rows), float(columns)

    def fullest(self) -> int:
        """The slice whose rarest Segment has most voxels."""
        numbers = range(1, len(self.names) + 1)
        return int(np.argmax([min(np.sum(p == n) for n in numbers) for p in self.labels]))

    def nearest_empty(self) -> int:
        """The slice without a Segment beside one with some: where a shift by one would show."""
        full = [index for index, plane in enumerate(self.labels) if plane.any()]
        empty = sorted(set(range(len(self.labels))) - set(full))
        return min(empty, key=lambda index: min(abs(index - other) for other in full))


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """The PACS of a viewer speaks DICOMweb."""
    peer = Orthanc(tmp_path_factory.mktemp("orthanc"), dicomweb=True)
    peer.start()
    yield peer
    peer.stop()


@pytest.fixture(scope="module")
def viewer(orthanc: Orthanc, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ohif]:
    running = Ohif(tmp_path_factory.mktemp("viewer"), orthanc)
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def answered(viewer: Ohif, orthanc: Orthanc, tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """The demo series and what the node answered to it, open in the viewer."""
    assert storescu(DEMO_SERIES, orthanc.dicom_port, called="ORTHANC").returncode == 0
    node = NodeProcess(tmp_path_factory.mktemp("node"), pacs_port=orthanc.dicom_port)
    node.start()
    try:
        assert storescu(DEMO_SERIES, node.port).returncode == 0
        (segmentation,) = eventually(orthanc.segmentations, 90, "SEG in Orthanc", every=0.5)
    finally:
        node.stop()
    source = _slices(DEMO_SERIES)
    read = highdicom.seg.Segmentation.from_dataset(segmentation)
    labels = read.get_pixels_by_source_instance(
        [one.SOPInstanceUID for one in source],
        combine_segments=True,
        assert_missing_frames_are_empty=True,
    )
    viewer.open(segmentation)
    return Shown(source, segmentation, labels)


def test_every_segment_is_listed_by_its_name(viewer: Ohif, answered: Shown) -> None:
    assert viewer.segment_names() == answered.names
    assert viewer.segment_names() == ["Hippocampus, anterior", "Hippocampus, posterior"]


def test_a_slice_without_a_segment_shows_no_colour(viewer: Ohif, answered: Shown) -> None:
    _assert_drawn(viewer, answered, answered.nearest_empty())


def test_colour_lies_on_the_voxels_of_each_segment_and_nowhere_else(
    viewer: Ohif, answered: Shown
) -> None:
    index = answered.fullest()
    _assert_drawn(viewer, answered, index)
    picture = viewer.picture(str(answered.source[index].SOPInstanceUID))
    for wrong in _one_voxel_off(answered.labels):
        assert picture.differences(wrong[index], answered.spacing_mm, answered.colours)
    if path := os.environ.get("SCREENSHOT"):
        page = Image.fromarray(viewer.page())
        page.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def _one_voxel_off(labels: Labels) -> list[Labels]:
    """By a slice, a row and a column either way: pictures that this test would not let pass."""
    return [np.roll(labels, step, axis) for axis in range(3) for step in (-1, 1)]


FORMS = {
    "binary": SegForm(),
    "binary, empty frames kept": SegForm(empty_frames=True),
    "label map": SegForm(SegType.LABELMAP),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_each_form_is_drawn_where_it_must_be_on_a_prone_sagittal_series(
    form: SegForm, viewer: Ohif, orthanc: Orthanc, shared_data: Path
) -> None:
    source = _slices(shared_data / "dicom" / "mr_siemens_prone_sagittal")
    labels = _corner_boxes(source)
    segmentation = _segmentation(source, labels, form)
    for one in [*source, segmentation]:
        orthanc.store(_file_of(one))
    shown = Shown(source, segmentation, labels)
    viewer.open(segmentation)
    assert viewer.segment_names() == shown.names
    for index in (shown.nearest_empty(), shown.fullest()):
        _assert_drawn(viewer, shown, index)


def _segmentation(source: Sequence[Dataset], labels: Labels, form: SegForm) -> Dataset:
    """As the node writes these labels, less the background item, which OHIF miscolours by."""
    series = source_of(source)
    volume = assemble(series, InputRules())
    label_map = LabelMap(labels, volume.affine, volume.frame_of_reference_uid)
    answer = answer_on_planes(label_map, make_model(), series)
    (made,) = encode_segmentations(answer, form)
    read = dcmread(DicomBytesIO(made.content))
    # OHIF 3.13 takes a colour by its place in this sequence: with the background at the head of
    # it, each Segment has the colour of the one before (cornerstone3D #2882).
    read.SegmentSequence = [one for one in read.SegmentSequence if one.SegmentNumber > 0]
    return read


def _corner_boxes(source: Sequence[Dataset]) -> Labels:
    """Two boxes that no turn or flip brings upon each other, on neither end of the stack."""
    rows, columns = source[0].Rows, source[0].Columns
    labels = np.zeros((len(source), rows, columns), np.uint8)
    labels[4:-9, rows // 8 : rows // 2, columns // 4 : columns // 2] = 1
    labels[9:-6, rows // 2 : rows * 3 // 4, columns // 3 : columns * 3 // 4] = 2
    return labels


def _assert_drawn(viewer: Ohif, shown: Shown, index: int) -> None:
    """The slice is the one it should be, and has the labels' colours, voxel for voxel."""
    uid, labels = str(shown.source[index].SOPInstanceUID), shown.labels[index]

    def differences() -> list[str]:
        return viewer.picture(uid).differences(labels, shown.spacing_mm, shown.colours)

    with contextlib.suppress(AssertionError):  # the labels may be drawn after the image
        eventually(lambda: not differences(), 30, "picture of the labels", every=0.5)
    assert differences() == []
    picture = viewer.picture(uid)
    likeness = [picture.likeness(one.pixel_array, shown.spacing_mm) for one in shown.source]
    assert int(np.argmax(likeness)) == index
    assert likeness[index] > 0.9


def _slices(folder: Path) -> list[Dataset]:
    """The images of a folder along the normal of their planes."""
    read = [dcmread(path) for path in folder.iterdir()]
    normal = np.cross(*np.reshape(read[0].ImageOrientationPatient, (2, 3)).astype(float))
    return sorted(read, key=lambda one: float(normal @ np.array(one.ImagePositionPatient, float)))


def _file_of(dataset: Dataset) -> bytes:
    buffer = DicomBytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _rgb(segment: Dataset) -> Colour:
    red, green, blue = CIELabColor.from_dicom_value(segment.RecommendedDisplayCIELabValue).to_rgb()
    return int(red), int(green), int(blue)
