"""A Segmentation decoded again, frame by frame. Nothing here is shared with the encoder.

Headers are read with pydicom, RLE is undone by pydicom and Deflate by zlib; bits are unpacked, and
fragments taken apart, by code of this file.
"""

import io
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from struct import unpack
from typing import Any, BinaryIO, Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.datadict import keyword_for_tag
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import RLELosslessDecoder
from pydicom.tag import BaseTag, Tag
from pydicom.uid import RLELossless

from node.core.errors import Fatal
from node.dicom.results.answer import Piece

DEFLATED_IMAGE_FRAME: Final = "1.2.840.10008.1.2.8.1"  # PS3.5 A.4.13
_PIXEL_DATA: Final = b"\xe0\x7f\x10\x00"
_ITEM: Final = b"\xfe\xff\x00\xe0"
_END: Final = b"\xfe\xff\xdd\xe0\0\0\0\0"  # Sequence Delimitation Item, PS3.5 A.4

_SEGMENT: Final = Tag("SegmentIdentificationSequence")
_POSITION: Final = Tag("PlanePositionSequence")
_DERIVATION: Final = Tag("DerivationImageSequence")

Vector = NDArray[np.float64]
Origin = tuple[str, int | None]
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Frame:
    """One plane of one Segment, as the Segmentation states it.

    number: 1 to n. segment_number: 0 in a LABELMAP. position: centre of the first voxel, LPS mm.
    sources: the SOP Instance UIDs it was derived from, with the frame of a multi-frame one.
    voxels: (row, column); what is written: 0 or 1, a Segment Number, a fraction.
    """

    number: int
    segment_number: int
    position: Vector
    sources: tuple[Origin, ...]
    voxels: NDArray[np.generic]

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Where the frame shows anything, (row, column)."""
        return self.voxels.astype(np.bool_)

    def __str__(self) -> str:
        which = f" (Segment {self.segment_number})" if self.segment_number else ""
        return f"frame {self.number}{which}"


@dataclass(frozen=True, eq=False)
class Decoded:
    """A file that was opened: its header, and its Pixel Data as they come."""

    header: Dataset
    pixels: BinaryIO

    def frames(self) -> Iterator[Frame]:
        """The frames in their order. Raises Fatal where there are fewer or more than announced."""
        groups = self.header.PerFrameFunctionalGroupsSequence
        count = len(groups)
        if int(self.header.NumberOfFrames) != count:
            raise wrong(f"{self.header.NumberOfFrames} frames are announced, {count} described")
        planes = _planes(self.header, self.pixels, count)
        read = _Groups(self.header)
        for number, (item, voxels) in enumerate(zip(groups, planes, strict=True), start=1):
            yield Frame(
                number, read.segment_number(item), read.position(item), read.sources(item), voxels
            )


def opened(pieces: Sequence[Piece]) -> Decoded:
    """A Part 10 file up to its Pixel Data. Raises Fatal where it is none."""
    stream = io.BufferedReader(_Joined(pieces), 1 << 20)
    try:
        return Decoded(dcmread(stream, stop_before_pixels=True), stream)
    except Exception as error:  # broken bytes make the parser raise almost anything
        raise wrong(f"it cannot be parsed: {error!r}") from error


def frames(segmentation: Dataset) -> Iterator[Frame]:
    """The frames of a Segmentation that lies in memory, uncompressed."""
    head = _PIXEL_DATA + b"OB\0\0" + len(segmentation.PixelData).to_bytes(4, "little")
    stream = io.BufferedReader(_Joined((head, segmentation.PixelData)))
    return Decoded(segmentation, stream).frames()


def segment_volumes_ml(segmentation: Dataset) -> dict[str, float]:
    """Volume of each Segment by its label, ml, from a BINARY Segmentation alone."""
    measures = segmentation.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    voxel_mm3 = float(np.prod(np.asarray(measures.PixelSpacing, float)))
    voxel_mm3 *= float(measures.SpacingBetweenSlices)
    labels = {int(s.SegmentNumber): str(s.SegmentLabel) for s in segmentation.SegmentSequence}
    volumes = dict.fromkeys(labels.values(), 0.0)
    for frame in frames(segmentation):
        ml = int(np.count_nonzero(frame.mask)) * voxel_mm3 / 1000.0
        volumes[labels[frame.segment_number]] += ml
    return volumes


def wrong(sentence: str) -> Fatal:
    """A fault of ours, in words."""
    return Fatal(f"the Segmentation is wrong and must not leave (please report this): {sentence}")


class _Joined(io.RawIOBase):
    """Pieces read as one file, without joining them. name: of no file; pydicom asks."""

    name = ""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._pieces = [memoryview(piece) for piece in pieces]
        self._starts = np.cumsum([0, *(len(piece) for piece in self._pieces)])
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        index = int(np.searchsorted(self._starts, self._at, "right")) - 1
        if index >= len(self._pieces):
            return 0
        inside = self._at - int(self._starts[index])
        part = self._pieces[index][inside : inside + len(buffer)]
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: int(self._starts[-1])}[whence]
        self._at = base + offset
        return self._at


class _Groups:
    """The functional groups of one frame: its own, or that of all frames (PS3.3 C.7.6.16).

    Frames of one plane, or one Segment, say the same in the same bytes: those are parsed once.
    """

    def __init__(self, header: Dataset) -> None:
        self._shared = header.SharedFunctionalGroupsSequence[0]
        self._label_map = header.SegmentationType == "LABELMAP"
        self._known: dict[tuple[BaseTag, bytes], Any] = {}

    def segment_number(self, groups: Dataset) -> int:
        return 0 if self._label_map else self._once(groups, _SEGMENT, _segment_number)

    def position(self, groups: Dataset) -> Vector:
        return self._once(groups, _POSITION, _position)

    def sources(self, groups: Dataset) -> tuple[Origin, ...]:
        return self._once(groups, _DERIVATION, _sources)

    def _once(self, groups: Dataset, tag: BaseTag, read: Callable[[Sequence[Dataset]], T]) -> T:
        where = groups if tag in groups else self._shared
        if tag not in where:
            raise wrong(f"a frame has no {keyword_for_tag(tag)}")
        raw = where.get_item(tag).value
        if not isinstance(raw, bytes):
            return read(where[tag].value)
        if (tag, raw) not in self._known:
            self._known[tag, raw] = read(where[tag].value)
        found: T = self._known[tag, raw]
        return found


def _segment_number(sequence: Sequence[Dataset]) -> int:
    return int(sequence[0].ReferencedSegmentNumber)


def _position(sequence: Sequence[Dataset]) -> Vector:
    return np.asarray(sequence[0].ImagePositionPatient, float)


def _sources(sequence: Sequence[Dataset]) -> tuple[Origin, ...]:
    images = [image for derivation in sequence for image in derivation.SourceImageSequence]
    numbers = [image.get("ReferencedFrameNumber") for image in images]
    return tuple(
        (str(image.ReferencedSOPInstanceUID), None if number is None else int(number))
        for image, number in zip(images, numbers, strict=True)
    )


def _planes(header: Dataset, stream: BinaryIO, count: int) -> Iterator[NDArray[np.generic]]:
    """The voxels of each frame, (row, column). Raises Fatal where bytes are missing or too many."""
    tag, _, length = unpack("<4s4sL", stream.read(12))
    if tag != _PIXEL_DATA:
        raise wrong("its Pixel Data is not where it should be")
    meta = getattr(header, "file_meta", None)
    syntax = str(meta.TransferSyntaxUID) if meta else ""
    if syntax in (RLELossless, DEFLATED_IMAGE_FRAME):
        yield from _compressed(header, stream, count, syntax)
    elif header.BitsAllocated == 1:
        _require_length(length, count * _size(header), 8)
        yield from _unpacked(header, stream, count)
    else:
        width = int(header.BitsAllocated) // 8
        _require_length(length, count * _size(header) * width, 1)
        for _ in range(count):
            yield _plane(header, stream.read(_size(header) * width))
        stream.read(length - count * _size(header) * width)
    if stream.read(1):
        raise wrong("something stands behind its Pixel Data")


def _size(header: Dataset) -> int:
    return int(header.Rows) * int(header.Columns)


def _require_length(length: int, values: int, values_a_byte: int) -> None:
    """Even length (PS3.5 8.1.1)."""
    needed = -(-values // values_a_byte)
    if length != needed + needed % 2:
        raise wrong(f"its Pixel Data has {length} bytes, its frames need {needed}")


def _plane(header: Dataset, data: bytes) -> NDArray[np.generic]:
    """Whole bytes of one frame, (row, column)."""
    values = np.frombuffer(data, np.dtype(f"<u{int(header.BitsAllocated) // 8}"))
    return values.reshape(int(header.Rows), int(header.Columns))


def _unpacked(header: Dataset, stream: BinaryIO, count: int) -> Iterator[NDArray[np.generic]]:
    """One bit a voxel, bit 0 is the lowest of byte 0 (PS3.5 8.1.1); eight frames end with one."""
    size, shape = _size(header), (int(header.Rows), int(header.Columns))
    for first in range(0, count, 8):
        some = min(8, count - first)
        bits = _bits(stream.read(-(-some * size // 8)))
        if bits[some * size :].any():
            raise wrong("bits are set behind the last frame")
        yield from bits[: some * size].reshape(some, *shape)
    if any(stream.read(1)):
        raise wrong("bits are set behind the last frame")


def _bits(data: bytes) -> NDArray[np.uint8]:
    return np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")


def _compressed(
    header: Dataset, stream: BinaryIO, count: int, syntax: str
) -> Iterator[NDArray[np.generic]]:
    """One fragment a frame (PS3.5 A.4), each undone by itself."""
    undo = _from_rle if syntax == RLELossless else _inflated
    largest = 4 * _size(header) + 1024  # bytes; no compression doubles two of them a voxel
    table, at = np.frombuffer(_item(stream, 4 * count), "<u4"), 0
    if len(table) not in (0, count):
        raise wrong(f"its Basic Offset Table is of {len(table)} frames, not {count}")
    for number in range(count):
        if len(table) and table[number] != at:
            raise wrong(f"its Basic Offset Table puts frame {number + 1} at {table[number]}")
        fragment = _item(stream, largest)
        at += len(fragment) + 8
        yield undo(header, fragment)
    if stream.read(8) != _END:
        raise wrong(f"its Pixel Data has more than the {count} frames that are described")


def _item(stream: BinaryIO, largest: int) -> bytes:
    """The next fragment. Raises Fatal where there is none, or it claims to be huge."""
    tag, length = unpack("<4sL", stream.read(8))
    if tag != _ITEM or length > largest:
        raise wrong("a frame is missing in its Pixel Data")
    return stream.read(int(length))


def _from_rle(header: Dataset, fragment: bytes) -> NDArray[np.generic]:
    options: dict[str, Any] = {
        "rows": int(header.Rows),
        "columns": int(header.Columns),
        "samples_per_pixel": int(header.SamplesPerPixel),
        "bits_allocated": int(header.BitsAllocated),
        "bits_stored": int(header.BitsStored),
        "pixel_representation": int(header.PixelRepresentation),
        "photometric_interpretation": str(header.PhotometricInterpretation),
        "pixel_keyword": "PixelData",
        "number_of_frames": 1,
    }
    try:
        voxels, _ = RLELosslessDecoder.as_array(
            encapsulate([fragment]), index=0, decoding_plugin="pydicom", **options
        )
    except (RuntimeError, ValueError) as error:
        raise wrong(f"a frame is no RLE: {error}") from error
    return voxels


def _inflated(header: Dataset, fragment: bytes) -> NDArray[np.generic]:
    """Deflate without a zlib header, PS3.5 A.4.13; at most one byte of padding stands behind it."""
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    needed = -(-_size(header) * int(header.BitsAllocated) // 8)
    try:
        data = inflate.decompress(fragment, needed + 1)
    except zlib.error as error:
        raise wrong(f"a frame cannot be inflated: {error}") from error
    if len(data) != needed or not inflate.eof or len(inflate.unused_data) > 1:
        raise wrong(f"a frame is {len(data)} bytes when it is inflated, and not {needed}")
    if header.BitsAllocated != 1:
        return _plane(header, data)
    bits = _bits(data)
    if bits[_size(header) :].any():
        raise wrong("bits are set behind a frame")
    return bits[: _size(header)].reshape(int(header.Rows), int(header.Columns))
