"""Pictures of a few slices with outlines, for viewers that show nothing else (PS3.3 A.8.1).

Single-frame Secondary Captures in one Series: every viewer and every archive since 1993 shows
them, while the multi-frame true colour class of 2000 is still refused by some. Uncompressed RGB,
for the same reason. No name of a patient is drawn.
"""

from copy import deepcopy
from typing import Final

import numpy as np
from PIL import Image
from pydicom import Dataset
from pydicom.uid import SecondaryCaptureImageStorage
from pydicom.valuerep import DSfloat

from node.core.errors import Fatal
from node.core.result import ObjectRef, ResultKind
from node.core.volume import Affine
from node.dicom.elements import code_item, reference, stated
from node.dicom.results.answer import Answer, ResultObject
from node.dicom.results.captures.pictures import ShownSlice, pictures_of
from node.dicom.results.context import (
    RESEARCH_USE,
    SeriesKind,
    caveats_of,
    copy_context,
    describe_series,
    file_bytes,
    identify,
    set_character_set,
    set_times,
    words_of,
)
from node.dicom.results.references import SOURCE_IMAGE, refer_to_source

CAPTURES: Final = SeriesKind("OT", 3000, "Pictures: ")  # OT: other, C.7.3.1.1.1
_OBLIQUE = 0.1  # of a cosine


def encode_captures(answer: Answer) -> list[ResultObject]:
    """Up to nine pictures, slice by slice, of one Series and of one size.

    Raises Fatal, SeriesRejected where the source cannot be drawn.
    """
    return [
        _encoded(answer, part, one, picture)
        for part, (one, picture) in enumerate(pictures_of(answer), start=1)
    ]


def _encoded(answer: Answer, part: int, one: ShownSlice, picture: Image.Image) -> ResultObject:
    uids = answer.uids(ResultKind.CAPTURE, part=part)
    caveats = caveats_of(answer.label_map.positions is not None, answer.verdict)
    dataset = Dataset()
    copy_context(dataset, one.instance)
    del dataset.PositionReferenceIndicator  # it lies in no Frame of Reference
    identify(dataset, one.instance, uids, SecondaryCaptureImageStorage, in_space=False)
    describe_series(dataset, one.instance, answer.model, caveats, CAPTURES, part)
    set_times(dataset, one.instance, answer.created_at)
    set_character_set(dataset, one.instance, words_of(answer.model, answer.model.segments))
    refer_to_source(dataset, [one.instance])
    _describe_image(dataset, answer, one)
    _set_pixels(dataset, picture, one.pixel_mm)
    ref = ObjectRef(
        ResultKind.CAPTURE,
        "",
        SecondaryCaptureImageStorage,
        uids.series_instance_uid,
        uids.sop_instance_uid,
    )
    return ResultObject(ref, (file_bytes(dataset),))


def _describe_image(dataset: Dataset, answer: Answer, one: ShownSlice) -> None:
    """General Image, SC Equipment and SC Image Modules, PS3.3 C.7.6.1, C.8.6.1, C.8.6.2."""
    dataset.ImageType = ["DERIVED", "SECONDARY"]
    dataset.ConversionType = "WSD"  # workstation
    dataset.BurnedInAnnotation = "NO"  # none that says who the patient is, PS3.3 C.7.6.1
    dataset.DateOfSecondaryCapture = dataset.ContentDate
    dataset.TimeOfSecondaryCapture = dataset.ContentTime
    _copy_side(dataset, one)
    dataset.PatientOrientation = _patient_orientation(answer.label_map.affine)
    dataset.ImageComments = RESEARCH_USE
    dataset.DerivationDescription = f"outlines of a segmentation drawn over slice {one.index + 1}"
    origin = reference(one.instance)
    if one.frame is not None:
        origin.ReferencedFrameNumber = one.frame
    origin.PurposeOfReferenceCodeSequence = [code_item(SOURCE_IMAGE)]
    dataset.SourceImageSequence = [origin]


def _copy_side(dataset: Dataset, one: ShownSlice) -> None:
    """Of a paired part of the body, which one: Type 2C, as far as the source says it (C.7.3.1)."""
    for keyword in ("BodyPartExamined", "Laterality", "ImageLaterality"):
        if keyword in one.instance:
            dataset[keyword] = deepcopy(one.instance[keyword])
    if one.frame is not None:
        try:
            side = stated(one.instance, one.frame, "FrameAnatomySequence", "FrameLaterality")
            dataset.ImageLaterality = side.value
        except (AttributeError, Fatal, LookupError):
            pass  # it does not say it


def _patient_orientation(affine: Affine) -> list[str]:
    """To which sides of the patient rows and columns run, nearest first (C.7.6.1.1.1)."""
    sides = []
    for direction in (affine[:3, 2], affine[:3, 1]):
        cosines = direction / np.linalg.norm(direction)
        order = [axis for axis in np.argsort(-np.abs(cosines)) if abs(cosines[axis]) > _OBLIQUE]
        sides.append("".join("LPH"[a] if cosines[a] > 0 else "RAF"[a] for a in order))
    return sides


def _set_pixels(dataset: Dataset, picture: Image.Image, mm: float) -> None:
    """Image Pixel Module, PS3.3 C.7.6.3: RGB, 8 bits, colour by pixel."""
    dataset.Rows, dataset.Columns = picture.height, picture.width
    dataset.PixelSpacing = [DSfloat(mm, auto_format=True)] * 2
    dataset.SamplesPerPixel = 3
    dataset.PhotometricInterpretation = "RGB"
    dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = 8
    dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.PixelRepresentation = 0
    pixels = picture.tobytes()
    dataset.add_new("PixelData", "OB", pixels + b"\0" * (len(pixels) % 2))
