"""The Pixel Data of a Segmentation, as pieces that nobody joins: there can be 2 GB of it."""

import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.pixels.encoders.base import RLELosslessEncoder

from node.core.errors import Fatal
from node.core.result import Compression, SegForm, SegType
from node.dicom.results.answer import Answer, Piece
from node.dicom.results.segmentation.contents import Frame, Part

_UNDEFINED: Final = 0xFFFFFFFF
_LARGEST: Final = _UNDEFINED - 1  # bytes of an element of defined length, PS3.5 7.1.1
_PIXEL_DATA, _ITEM, _END = (0x7FE0, 0x0010), (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)
_DEFLATE_LEVEL: Final = 6
_ONE_BYTE: Final = 255  # the largest Segment Number of a LABELMAP with 8 bits


def bits_allocated(part: Part, form: SegForm) -> int:
    """Bits of a voxel: one, eight, or 16 in a LABELMAP with more Segments than a byte counts."""
    if form.type is SegType.BINARY:
        return 1
    return 16 if form.type is SegType.LABELMAP and len(part.segments) > _ONE_BYTE else 8


def pixel_data(answer: Answer, part: Part, form: SegForm) -> tuple[Piece, ...]:
    """The Pixel Data of one object, PS3.5 8.1 and A.4. Raises Fatal where it is too long."""
    frames = _Frames(answer, part, form)
    if form.compression is not Compression.NONE:
        compress = _rle if form.compression is Compression.RLE else _deflated
        empty = compress(frames.empty, frames)
        return tuple(
            _encapsulated(
                [empty if f.empty else compress(frames.one(f), frames) for f in part.frames]
            )
        )
    pieces = list(frames.packed() if form.type is SegType.BINARY else frames.plain())
    length = sum(len(piece) for piece in pieces)
    if length % 2:
        pieces.append(b"\0")
    if length > _LARGEST:
        raise Fatal(
            f"{len(part.frames)} frames are {length / 1e9:.1f} GB, more than a Segmentation can "
            "hold (PS3.5 7.1.1): leave empty frames out, or set max_frames"
        )
    vr = b"OW" if frames.bits == 16 else b"OB"
    head = struct.pack("<HH2sHL", *_PIXEL_DATA, vr, 0, length + length % 2)
    return (head, *pieces)


class _Frames:
    """The frames of one object, uncompressed; an empty one is always the same piece."""

    def __init__(self, answer: Answer, part: Part, form: SegForm) -> None:
        self.array, self.type = answer.label_map.array, form.type
        self.frames, self.bits = part.frames, bits_allocated(part, form)
        self._probabilities: Mapping[int, NDArray[np.uint8]] = answer.probabilities or {}
        self.rows, self.columns = self.array.shape[1:]
        size = int(self.array.max()) + 1
        self._numbers = np.zeros(size, np.uint8 if self.bits <= 8 else np.dtype("<u2"))
        for number, segment in enumerate(part.segments, start=1):
            if segment.number < size:
                self._numbers[segment.number] = number
        self.empty = bytes(-(-self.rows * self.columns * self.bits // 8))

    def plain(self) -> Iterator[Piece]:
        """Each frame by itself."""
        for frame in self.frames:
            yield self.one(frame)

    def one(self, frame: Frame) -> Piece:
        """A frame of whole bytes; bits are filled up to a byte (PS3.5 A.4.13 compresses those)."""
        if frame.empty:
            return self.empty
        if self.type is SegType.BINARY:
            return _bits(self.array[frame.slice_index] == frame.label).data
        if self.type is SegType.LABELMAP:
            return _bytes(np.take(self._numbers, self.array[frame.slice_index]))
        return _bytes(self._probabilities[frame.label][frame.slice_index])

    def packed(self) -> Iterator[Piece]:
        """All frames as one run of bits, without a gap between frames (PS3.5 8.1.1)."""
        if self.rows * self.columns % 8 == 0:
            return self._whole_bytes()
        return self._across_bytes()

    def _whole_bytes(self) -> Iterator[Piece]:
        """Of frames that end with a byte. A slice is read once, for the Segments that it shows."""
        places = [place for place, frame in enumerate(self.frames) if not frame.empty]
        bits = np.empty((len(places), len(self.empty)), np.uint8)
        row_of = {place: row for row, place in enumerate(places)}
        for place in sorted(places, key=lambda place: self.frames[place].slice_index):
            frame = self.frames[place]
            bits[row_of[place]] = _bits(self.array[frame.slice_index] == frame.label)
        for place in range(len(self.frames)):
            yield bits[row_of[place]].data if place in row_of else self.empty

    def _across_bytes(self) -> Iterator[Piece]:
        """Of others: eight frames end with a byte, whatever their size."""
        for first in range(0, len(self.frames), 8):
            eight = self.frames[first : first + 8]
            yield _bits(np.stack([self.array[f.slice_index] == f.label for f in eight])).data


def _bits(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Lowest bit first (PS3.5 8.1.1)."""
    return np.packbits(mask, bitorder="little")


def _bytes(plane: NDArray[np.generic]) -> memoryview:
    flat: NDArray[np.uint8] = np.ascontiguousarray(plane).view(np.uint8).reshape(-1)
    return flat.data


def _rle(frame: Piece, frames: _Frames) -> bytes:
    """One frame in RLE Lossless, PS3.5 G; by pylibjpeg, a hundred times faster than by pydicom."""
    bits = frames.bits
    return RLELosslessEncoder.encode(
        bytes(frame),
        encoding_plugin="pylibjpeg",
        rows=frames.rows,
        columns=frames.columns,
        samples_per_pixel=1,
        bits_allocated=bits,
        bits_stored=bits,
        pixel_representation=0,
        photometric_interpretation="MONOCHROME2",
        number_of_frames=1,
    )


def _deflated(frame: Piece, _: _Frames) -> bytes:
    """One frame compressed without a zlib header (RFC 1951), PS3.5 A.4.13."""
    compressor = zlib.compressobj(_DEFLATE_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    return compressor.compress(frame) + compressor.flush()


def _encapsulated(frames: Sequence[bytes]) -> Iterator[Piece]:
    """One fragment of even length for each frame, behind a Basic Offset Table (PS3.5 A.4).

    The table is left empty where its 32 bits do not reach.
    """
    yield struct.pack("<HH2sHL", *_PIXEL_DATA, b"OB", 0, _UNDEFINED)
    lengths = np.array([len(frame) + len(frame) % 2 + 8 for frame in frames], np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    table = offsets.astype("<u4").tobytes() if offsets[-1] < _UNDEFINED else b""
    yield struct.pack("<HHL", *_ITEM, len(table)) + table
    for frame in frames:
        odd = len(frame) % 2
        yield struct.pack("<HHL", *_ITEM, len(frame) + odd)
        yield frame
        if odd:
            yield b"\0"
    yield struct.pack("<HHL", *_END, 0)
