"""Writing a Segmentation of a whole body, and judging it, beside plain highdicom.

`python -m bench.results WHO FORM FOLDER SLICES` does one of them, in a process of its own.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RLELossless

from bench.figure import Comparison, Section
from bench.inference import memory
from node.core.anatomy import TISSUE, Segment
from node.core.names import SeriesInstanceUID
from node.core.result import Compression, Identity, SegForm, SegType
from node.core.volume import LabelMap, Volume
from node.dicom.inbox import write_durably
from node.dicom.planes import planes_of
from node.dicom.results.answer import Answer
from node.dicom.series import SourceSeries
from tests.made_up import made_up_model
from tests.series_factory import make_series

HEADING = "Writing results"
SEGMENTS: Final = 117
SLICES, QUICK_SLICES = 500, 40
SIDE: Final = 512
_SPACING_MM: Final = (1.5, 0.8, 0.8)  # (slice, row, column)
_PATIENCE_S: Final = 600  # for each process
_ADDRESS_SPACE: Final = 12 << 30  # the machine has other guests
_RLE: Final = SegForm(SegType.LABELMAP, compression=Compression.RLE)
_FORMS: Final[Mapping[str, tuple[str, str, SegForm]]] = {
    "binary": ("BINARY, empty frames left out", "≤ 20 s, ≤ 3 GB", SegForm()),
    "kept": ("BINARY, empty frames kept", "≤ 20 s, ≤ 3 GB", SegForm(empty_frames=True)),
    "deflated": (
        "BINARY, Deflated Image Frame Compression", "–", SegForm(compression=Compression.DEFLATED)
    ),
    "labelmap": ("LABELMAP", "≤ 3 s", SegForm(SegType.LABELMAP)),
    "rle": ("LABELMAP, RLE Lossless", "≤ 3 s", _RLE),
}  # fmt: skip


@dataclass(frozen=True)
class Written:
    """Seconds to encode, to write and fsync, to judge; the peak (VmHWM) before the judge and after.

    before: what the process held of source and labels when it began.
    """

    encode_s: float
    write_s: float
    gate_s: float
    before: int
    peak: int
    gate_peak: int
    size: int
    frames: int

    def __str__(self) -> str:
        gate = f"; gate {self.gate_s:.1f} s, {_gb(self.gate_peak)}" if self.gate_s else ""
        seconds = self.encode_s + self.write_s
        return (
            f"**{seconds:.1f} s** ({self.encode_s:.1f} + {self.write_s:.1f} to write "
            f"{self.size / 1e6:.0f} MB), {_gb(self.peak)}{gate}"
        )


def measure(folder: Path, quick: bool) -> Section:
    """Seconds and memory of each form: ours and highdicom's, each in a process of its own."""
    slices = QUICK_SLICES if quick else SLICES
    rows = [_row(name, folder, slices) for name in _FORMS]
    return Section(
        HEADING,
        rows,
        [
            f"A made body: {SEGMENTS} ellipsoids of 40 to 150 slices on {SIDE}×{SIDE}×{slices}, on "
            "a CT of as many Instances, whose Pixel Data lie in memory as they do in the node.",
            "Stock: `highdicom.seg.Segmentation` and `save_as`, of the same label map, source and "
            f"Segments; stopped after {_PATIENCE_S} s or {_gb(_ADDRESS_SPACE)}. Memory is the peak "
            "(VmHWM) of the whole process, source and labels included.",
        ],
    )


def _row(name: str, folder: Path, slices: int) -> Comparison:
    what, aim, _ = _FORMS[name]
    ours = _run("ours", name, folder, slices)
    theirs = "–" if name == "deflated" else str(_run("highdicom", name, folder, slices))
    held = f", {_gb(ours.before)} of it held before" if isinstance(ours, Written) else ""
    frames = f"{ours.frames:,} frames" if isinstance(ours, Written) else ""
    return Comparison(
        f"{SEGMENTS} segments: {what}", aim, f"{ours}", theirs, f"{frames}, once{held}"
    )


def _run(who: str, name: str, folder: Path, slices: int) -> Written | str:
    """In a process of its own; in words, where it did not end well."""
    command = [sys.executable, "-m", "bench.results", who, name, str(folder), str(slices)]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, timeout=_PATIENCE_S, check=False)
    except subprocess.TimeoutExpired:
        return f"more than {_PATIENCE_S} s"
    if done.returncode:
        return f"does not end well within {_gb(_ADDRESS_SPACE)}"
    written = Written(**json.loads(done.stdout))
    print(f"{who} {name}: {written}", file=sys.stderr, flush=True)  # the page comes at the end
    return written


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"


# --- in the process of its own


def body(slices: int, count: int = SEGMENTS) -> NDArray[np.uint8]:
    """Labels as of a body: ellipsoids 40 to 150 slices high, (slice, row, column)."""
    random = np.random.default_rng(117)
    array = np.zeros((slices, SIDE, SIDE), np.uint8)
    for label in range(1, count + 1):
        half = [*random.integers(20, 76, 1).clip(1, slices // 2), *random.integers(12, 46, 2)]
        room = [np.array([n - h, h]) for n, h in zip((slices, 400, 430), half, strict=True)]
        centre = [int(random.integers(low, max(high, low + 1))) for high, low in room]
        _draw(array, label, centre, [int(h) for h in half])
        array[centre[0], 40 + label * 3, 500] = label  # none is wholly hidden by others
    return array


def _draw(array: NDArray[np.uint8], label: int, centre: list[int], half: list[int]) -> None:
    box = tuple(
        slice(max(c - h, 0), min(c + h, n))
        for c, h, n in zip(centre, half, array.shape, strict=True)
    )
    axes = [
        ((np.arange(s.start, s.stop) - c) / h) ** 2
        for s, c, h in zip(box, centre, half, strict=True)
    ]
    inside = axes[0][:, None, None] + axes[1][:, None] + axes[2] <= 1.0
    array[box][inside] = label


def answer_of(array: NDArray[np.uint8]) -> Answer:
    """The labels on a CT of as many Instances."""
    voxels: NDArray[np.uint16] = np.zeros(array.shape, np.uint16)
    instances = make_series(spacing_mm=_SPACING_MM, voxels=voxels)
    for one in instances:
        one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = CTImageStorage
        one.Modality = "CT"
    source = SourceSeries(SeriesInstanceUID(instances[0].SeriesInstanceUID), tuple(instances))
    affine = np.diag([0.0, 0.0, 0.0, 1.0])
    affine[2, 0], affine[1, 1], affine[0, 2] = _SPACING_MM
    affine[:3, 3] = instances[0].ImagePositionPatient
    frame = instances[0].FrameOfReferenceUID
    labels = LabelMap(array, affine, frame)
    segments = [
        Segment(n, f"Structure {n}", TISSUE, TISSUE, (n, 255 - n, 99))
        for n in range(1, SEGMENTS + 1)
    ]
    model = made_up_model("body", segments=tuple(segments), fingerprint="f" * 64)
    planes = tuple(plane for one in instances for plane in planes_of(one))
    no_image = Volume(np.empty((0, 0, 0), np.float32), affine, frame)
    return Answer(labels, labels, no_image, model, source, planes, Identity("input", "body"), 1e9)


def _ours(answer: Answer, form: SegForm, path: Path) -> Written:
    from node.dicom.results.segmentation.encode import encode_segmentations
    from node.dicom.results.segmentation.verify import verify_segmentations

    before = memory.resident()
    began = time.monotonic()
    (made,) = encode_segmentations(answer, form)
    encoded = time.monotonic()
    write_durably(path, *made.pieces)
    written = time.monotonic()
    peak = memory.peak()
    verify_segmentations([made], answer, form)
    gate = time.monotonic() - written
    return Written(
        encoded - began,
        written - encoded,
        gate,
        before,
        peak,
        memory.peak(),
        made.size,
        _count(path),
    )


def _count(path: Path) -> int:
    from pydicom import dcmread

    read = dcmread(path, specific_tags=["NumberOfFrames"], stop_before_pixels=True)
    return int(read.NumberOfFrames)


def _theirs(answer: Answer, form: SegForm, path: Path) -> Written:
    import highdicom

    from node.dicom.results.segmentation.segments import descriptions

    segments: Any = descriptions(answer.model.segments, answer, ())
    rle = form.compression is Compression.RLE
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
    before = memory.resident()
    began = time.monotonic()
    made = highdicom.seg.Segmentation(
        source_images=list(answer.source.instances),
        pixel_array=answer.label_map.array,
        segmentation_type=form.type.name,
        segment_descriptions=segments,
        series_instance_uid="1.2.3",
        series_number=1,
        sop_instance_uid="1.2.3.4",
        instance_number=1,
        manufacturer="Segnode",
        manufacturer_model_name="Segnode",
        software_versions="1",
        device_serial_number="1",
        omit_empty_frames=not form.empty_frames,
        transfer_syntax_uid=RLELossless if rle else ExplicitVRLittleEndian,
    )
    encoded = time.monotonic()
    with path.open("wb") as file:
        made.save_as(file)
        file.flush()
        os.fsync(file.fileno())
    seconds = (encoded - began, time.monotonic() - encoded, 0.0)
    frames = int(made.NumberOfFrames)
    return Written(*seconds, before, memory.peak(), 0, path.stat().st_size, frames)


def main() -> None:
    who, name, folder, slices = sys.argv[1:]
    answer = answer_of(body(int(slices)))
    memory.forget_peak()
    write: Callable[[Answer, SegForm, Path], Written] = _ours if who == "ours" else _theirs
    path = Path(folder) / f"{who}-{name}.dcm"
    try:
        print(json.dumps(asdict(write(answer, _FORMS[name][2], path))))
    finally:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
