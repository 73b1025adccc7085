"""What a Job makes: its result objects, the forms they take, and which of them a Peer gets.

Viewers and archives break on different things, so what is made belongs to the Peer (see
docs/peers.md for who needs what). Objects of another form are other objects: the same input, the
same Model and the same form always name the same SOP Instance UID.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from node.core.names import SeriesInstanceUID, SOPInstanceUID
from node.core.uids import ResultUIDs, derive_uid, result_uids


class ResultKind(StrEnum):
    """What a result object says."""

    SEGMENTATION = "SEG"  # where each Segment is
    REPORT = "SR"  # measurements of each Segment, TID 1500
    STRUCTURE_SET = "RTSTRUCT"  # contours of each Segment
    CAPTURE = "SC"  # pictures of a few slices with outlines
    REFUSAL = "REFUSAL"  # an SR: there is no result, and why
    REJECTION = "KO"  # a Key Object Selection: an earlier result is replaced


class SegType(StrEnum):
    """How a Segmentation holds its Segments (Segmentation Type, PS3.3 C.8.20.2)."""

    BINARY = "binary"  # one bit a voxel, frames for each Segment
    LABELMAP = "labelmap"  # one number a voxel, one frame for each slice
    FRACTIONAL = "fractional"  # a probability a voxel, frames for each Segment


class Compression(StrEnum):
    """How the Pixel Data of a Segmentation is written, where its type allows it."""

    NONE = "none"  # Explicit VR Little Endian
    RLE = "rle"  # RLE Lossless (PS3.5 A.4.2): LABELMAP and FRACTIONAL
    DEFLATED = "deflated"  # Deflated Image Frame Compression (PS3.5 A.4.13): BINARY as well


@dataclass(frozen=True)
class SegForm:
    """Everything that shapes the bytes of a Segmentation beside the labels.

    max_frames: an object with more is split by groups of Segments; 0: never. A Segment is never
    split, so one with more frames than that stands in an object of its own.
    Raises ValueError for a pair that no Transfer Syntax allows.
    """

    type: SegType = SegType.BINARY
    empty_frames: bool = False
    max_frames: int = 0
    compression: Compression = Compression.NONE

    def __post_init__(self) -> None:
        if self.max_frames < 0:
            raise ValueError(f"max_frames is {self.max_frames}; write 0 for no limit")
        if self.type is SegType.BINARY and self.compression is Compression.RLE:
            raise ValueError(
                "RLE Lossless holds whole bytes, and a binary Segmentation one bit a voxel "
                '(PS3.5 G.2): write compression = "deflated" or "none"'
            )

    @property
    def name(self) -> str:
        """In words, "" for the default; part of the identity of what has this form."""
        words = [
            "" if self.type is SegType.BINARY else self.type.value,
            "with empty frames" if self.empty_frames else "",
            f"at most {self.max_frames} frames" if self.max_frames else "",
            "" if self.compression is Compression.NONE else self.compression.value,
        ]
        return ", ".join(word for word in words if word)


@dataclass(frozen=True)
class Wants:
    """Which result objects a Peer gets. segmentation: its form; None for no Segmentation."""

    segmentation: SegForm | None = SegForm()
    report: bool = True
    structure_set: bool = False
    capture: bool = False
    refusal_report: bool = False
    rejection_note: bool = False

    @property
    def nothing(self) -> bool:
        """Whether there is no object at all among them."""
        objects = (self.structure_set, self.capture, self.refusal_report, self.rejection_note)
        return self.segmentation is None and not (self.report or any(objects))

    @property
    def probabilities(self) -> bool:
        """Whether a FRACTIONAL Segmentation is among them, which shows more than labels."""
        form = self.segmentation
        return form is not None and form.type is SegType.FRACTIONAL


@dataclass(frozen=True)
class ObjectRef:
    """A result object by name: enough to refer to it, to deliver it, and to ask for it.

    form: the SegForm.name of a Segmentation, or of the one that a Report refers to; of a note of
    rejection a digest of what it rejects.
    """

    kind: ResultKind
    form: str
    sop_class_uid: str
    series_instance_uid: SeriesInstanceUID
    sop_instance_uid: SOPInstanceUID


def rejected(given: Iterable[ObjectRef]) -> list[ObjectRef]:
    """What a note of rejection names of the objects that a Peer was given, in its order.

    Notes among them stay.
    """
    named = {ref for ref in given if ref.kind is not ResultKind.REJECTION}
    return sorted(named, key=lambda ref: ref.sop_instance_uid)


def rejection_form(given: Iterable[ObjectRef]) -> str:
    """ObjectRef.form of the note that rejects these: one of other objects is another document."""
    named = "\n".join(ref.sop_instance_uid for ref in rejected(given))
    return hashlib.sha256(named.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Identity:
    """What all UIDs of a Job's result objects are derived from."""

    input_fingerprint: str
    model_fingerprint: str

    def uids(self, kind: ResultKind, form: str = "", part: int = 1) -> ResultUIDs:
        """UIDs of one object; parts of one object share a Series.

        Those of the default Segmentation are as they were before there were others.
        """
        if (kind, form) == (ResultKind.SEGMENTATION, "") and part == 1:
            return result_uids(self.input_fingerprint, self.model_fingerprint)
        series = (kind, form, self.input_fingerprint, self.model_fingerprint)
        return ResultUIDs(
            SeriesInstanceUID(derive_uid("result-series", *series)),
            SOPInstanceUID(derive_uid("result-instance", *series, str(part))),
        )
