"""From stored pixels to modality values, one frame at a time, within bounds that headers cannot
move: what a header claims is compared with what the bytes are before anything is decoded.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels.utils import iter_pixels

from node.core.errors import SeriesRejected

MAX_FRAME_PIXELS: Final = 4096 * 4096  # the largest CT and MR matrices are a quarter of it
MAX_VOLUME_VOXELS: Final = 2**30  # 4 GiB as float32
_BITS_ALLOCATED = (8, 16, 32)

Plane32 = NDArray[np.float32]


def modality_frames(instance: Dataset, frames: Sequence[int], name: str) -> Iterator[Plane32]:
    """Frames of an Instance (0 to n−1) as modality values, float32, (row, column).

    Rescaled by slope and intercept of the Instance or of the frame (PS3.3 C.11.1.1.2,
    C.7.6.16.2.9); bits above Bits Stored are dropped; padding stays as it is.
    Raises SeriesRejected naming `name`.
    """
    try:
        _require_decodable(instance, name)
        shape = (int(instance.Rows), int(instance.Columns))
        for frame, stored in zip(frames, _stored(instance, frames), strict=True):
            if stored.shape != shape:
                raise SeriesRejected(
                    f"Pixel Data of {name} is {stored.shape}, not {shape} (rows, columns)"
                )
            slope, intercept = _rescale(instance, frame, name)
            yield (stored * slope + intercept).astype(np.float32)
    except SeriesRejected:
        raise
    except Exception as error:  # each decoder raises its own kinds
        raise SeriesRejected(f"Pixel Data of {name} cannot be decoded: {error}") from error


def _stored(instance: Dataset, frames: Sequence[int]) -> Iterator[NDArray[Any]]:
    if len(frames) == 1 and int(instance.get("NumberOfFrames") or 1) == 1:
        return iter_pixels(instance, raw=True)
    return iter_pixels(instance, indices=list(frames), raw=True)


def _require_decodable(instance: Dataset, name: str) -> None:
    """What is not what the node understands is refused, never passed over."""
    if not instance.get("PixelData"):
        raise SeriesRejected(f"{name} has no Pixel Data")
    if instance.get("SamplesPerPixel", 1) != 1:
        raise SeriesRejected(f"{name} is a colour image")
    photometric = str(instance.get("PhotometricInterpretation") or "")
    if photometric != "MONOCHROME2":
        raise SeriesRejected(
            f"PhotometricInterpretation of {name} is {photometric or 'absent'}; only MONOCHROME2, "
            "where larger values are brighter, makes a volume"
        )
    _require_modality_values(instance, name)
    stored, allocated = int(instance.BitsStored), int(instance.BitsAllocated)
    if allocated not in _BITS_ALLOCATED or not 1 <= stored <= allocated:
        raise SeriesRejected(f"{name} has {stored} bits stored in {allocated}")
    if int(instance.HighBit) != stored - 1:
        raise SeriesRejected(
            f"HighBit of {name} is {instance.HighBit}, not BitsStored − 1 = {stored - 1}"
        )
    _require_bounded(instance, name)


def _require_modality_values(instance: Dataset, name: str) -> None:
    if "ModalityLUTSequence" in instance:
        raise SeriesRejected(
            f"{name} has a Modality LUT Sequence; only Rescale Slope and Intercept are understood"
        )


def _require_bounded(instance: Dataset, name: str) -> None:
    """The claimed size, and that the bytes are of that size, before a decoder allocates it."""
    rows, columns = int(instance.Rows), int(instance.Columns)
    count = int(instance.get("NumberOfFrames") or 1)
    if rows * columns > MAX_FRAME_PIXELS:
        raise SeriesRejected(
            f"{name} claims {rows} × {columns} pixels; {MAX_FRAME_PIXELS} are decoded at most"
        )
    if not 1 <= count <= MAX_VOLUME_VOXELS // (rows * columns or 1):
        raise SeriesRejected(f"{name} claims {count} frames of {rows} × {columns} pixels")
    syntax = instance.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated:
        for codestream in generate_frames(instance.PixelData, number_of_frames=count):
            stated = stated_size(codestream)
            if stated not in (None, (rows, columns)):
                raise SeriesRejected(
                    f"Pixel Data of {name} is compressed {stated}, not {(rows, columns)} "
                    "(rows, columns)"
                )
    else:
        needed = rows * columns * count * int(instance.BitsAllocated) // 8
        if len(instance.PixelData) < needed:
            raise SeriesRejected(
                f"Pixel Data of {name} cannot be decoded: it has {len(instance.PixelData)} bytes, "
                f"{count} frames of {rows} × {columns} pixels need {needed}"
            )


def stated_size(codestream: bytes) -> tuple[int, int] | None:
    """(rows, columns) as a JPEG, JPEG-LS or JPEG 2000 codestream states them; None for others."""
    start = codestream.find(b"\xff\x4f\xff\x51", 0, 4096)  # JPEG 2000: SOC, SIZ (T.800 A.4.1)
    if start >= 0 and len(codestream) >= start + 24:
        width, height, left, top = (
            int.from_bytes(codestream[start + at : start + at + 4], "big") for at in (8, 12, 16, 20)
        )
        return height - top, width - left
    if codestream[:2] != b"\xff\xd8":
        return None
    return _jpeg_size(codestream)


def _jpeg_size(codestream: bytes) -> tuple[int, int] | None:
    """From the frame header SOFn (T.81 B.2.2), or SOF55 of JPEG-LS (T.87 C.2.2)."""
    at = 2
    while at + 9 < len(codestream) and codestream[at] == 0xFF:
        marker = codestream[at + 1]
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            return (
                int.from_bytes(codestream[at + 5 : at + 7], "big"),
                int.from_bytes(codestream[at + 7 : at + 9], "big"),
            )
        at += 2 + int.from_bytes(codestream[at + 2 : at + 4], "big")
    return None


def _rescale(instance: Dataset, frame: int, name: str) -> tuple[float, float]:
    """Slope and intercept: of the frame, of all frames, or of a classic header."""
    where = instance
    for keyword in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
        groups = instance.get(keyword) or []
        item = groups[frame if keyword.startswith("Per") else 0] if len(groups) else Dataset()
        if item.get("PixelValueTransformationSequence"):
            where = item.PixelValueTransformationSequence[0]
            break
    slope = where.get("RescaleSlope")
    slope = 1.0 if slope is None else float(slope)
    intercept = float(where.get("RescaleIntercept") or 0.0)
    if not (np.isfinite(slope) and np.isfinite(intercept)) or slope == 0.0:
        raise SeriesRejected(f"RescaleSlope of {name} is {slope:g}, its intercept {intercept:g}")
    return slope, intercept
