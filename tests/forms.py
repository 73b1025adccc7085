"""Every form of a Segmentation, an Answer with probabilities, and what DEFLATED frames hold."""

import zlib
from collections.abc import Mapping
from io import BytesIO
from itertools import product

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.encaps import generate_frames
from pydicom.uid import ExplicitVRLittleEndian

from node.core.result import Compression, SegForm, SegType
from node.core.volume import LabelMap
from node.dicom.results.answer import Answer
from tests.answers import answer_on_planes
from tests.models import SEGMENTS, boxes, make_model, source_of
from tests.series_factory import make_series

DEFLATED = "1.2.840.10008.1.2.8.1"


def every_form() -> list[SegForm]:
    """Each type, compressed or not, with and without empty frames, whole and split."""
    options = product(SegType, Compression, (False, True), (0, 10))
    return [
        SegForm(kind, empty, limit, compression)
        for kind, compression, empty, limit in options
        if (kind, compression) != (SegType.BINARY, Compression.RLE)
    ]


def probabilities_of(labels: LabelMap) -> Mapping[int, NDArray[np.uint8]]:
    """By label: high inside, low at random in front of and behind it."""
    random = np.random.default_rng(11)
    found = {}
    for segment in SEGMENTS:
        inside = labels.array == segment.number
        near = inside | np.roll(inside, 1, axis=0)
        low = random.integers(0, 100, labels.array.shape)
        found[segment.number] = np.where(inside, 200, low * near).astype(np.uint8)
    return found


def make_answer(columns: int = 16) -> Answer:
    """Two of three Segments, one before the other; `columns` of 24 rows."""
    source = source_of(make_series(columns=columns))
    labels = boxes(source)
    return answer_on_planes(labels, make_model(), source, probabilities=probabilities_of(labels))


def decompressed(file: bytes) -> Dataset:
    """A deflated Segmentation with native Pixel Data: pydicom does not know that syntax."""
    dataset = dcmread(BytesIO(file))
    if dataset.file_meta.TransferSyntaxUID != DEFLATED:
        return dataset
    frames = generate_frames(dataset.PixelData, number_of_frames=int(dataset.NumberOfFrames))
    planes = [zlib.decompress(frame, -zlib.MAX_WBITS) for frame in frames]
    if dataset.BitsAllocated == 1:
        size = dataset.Rows * dataset.Columns
        bits = [np.unpackbits(np.frombuffer(p, np.uint8), bitorder="little")[:size] for p in planes]
        planes = [np.packbits(np.concatenate(bits), bitorder="little").tobytes()]
    joined = b"".join(planes)
    dataset.PixelData = joined + b"\0" * (len(joined) % 2)
    dataset["PixelData"].is_undefined_length = False
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset
