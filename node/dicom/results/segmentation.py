"""From a LabelMap to a DICOM Segmentation on the grid of its source Series (PS3.3 A.51).

The same input gives the same bytes, today and after any crash: UIDs are derived, times come in.
highdicom describes the Segments. Its Segmentation class is only the oracle of the tests: it stays
at 75 MB after its first use and reaches 115 MB on the way, in the process that receives.
"""

from collections.abc import Sequence
from io import BytesIO
from typing import Final

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from highdicom.color import CIELabColor
from highdicom.seg import SegmentDescription
from pydicom import Dataset, dcmwrite

from node.core.anatomy import Code, Segment
from node.core.errors import Fatal
from node.core.model import TILE_STEP, Model, Profile
from node.core.names import SOPInstanceUID
from node.core.uids import ResultUIDs, derive_uid
from node.core.verdict import Verdict
from node.core.volume import LabelMap
from node.dicom.elements import code_item, long_string, name_of, required, sr_code
from node.dicom.planes import Plane, planes_of
from node.dicom.results.context import (
    Caveat,
    caveats_of,
    copy_context,
    describe_series,
    identify,
    profile_mark,
    refer_to_predecessor,
    refer_to_source,
    set_character_set,
    set_times,
    tracking_id,
    words_of,
)
from node.dicom.results.frames import (
    Frame,
    SourcePlane,
    packed,
    per_frame_groups,
    set_dimensions,
    shared_groups,
    write_as_it_is,
)
from node.dicom.series import SourceSeries
from node.dicom.volumes import tolerance_mm

RESEARCH_USE: Final = "Research use; not a medical device"
ORIENTATION_ASSUMED: Final = "orientation assumed"
# What a profile changes, by name; a result of the exact one does not mention it.
CHANGES: Final = {
    Profile.FAST: "no mirroring",
    Profile.FASTEST: (
        f"no mirroring; tile step {TILE_STEP[Profile.FASTEST]} of a patch; tiles of air skipped"
    ),
}

_ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")  # PS3.16 CID 7162


def encode(
    label_map: LabelMap,
    model: Model,
    source: SourceSeries,
    uids: ResultUIDs,
    created_at: float,
    planes: Sequence[Plane] | None = None,
    predecessor: SOPInstanceUID | None = None,
    verdict: Verdict | None = None,
) -> Dataset:
    """A BINARY Segmentation of the labels, each frame on the source plane it lies on.

    Frames go by segment, then plane; empty ones are omitted, and so are Segments without a voxel.
    A LabelMap without any voxel becomes one empty frame for each Segment of the Model: "looked,
    and found nothing" is a result, and a Segmentation has at least one frame.
    created_at: seconds since the epoch. planes: those of the source that the labels were made of;
    all by default. predecessor: the Segmentation of fewer Instances that this one takes the place
    of. verdict: how sure it is that the source is whole; said where it is less than proven.
    Raises Fatal where the labels or the headers forbid it.
    """
    sources = _in_slice_order(source, label_map, planes)
    first = sources[0].instance
    instances = list({id(one.instance): one.instance for one in sources}.values())
    segments, frames = _contents(label_map, model)
    caveats = caveats_of(label_map.positions is not None, verdict)
    dataset = Dataset()
    copy_context(dataset, first)
    identify(dataset, first, uids)
    describe_series(dataset, first, model, caveats)
    set_times(dataset, first, created_at)
    set_character_set(dataset, first, words_of(model, segments))
    refer_to_source(dataset, instances)
    if predecessor:
        refer_to_predecessor(dataset, predecessor)
    _describe_image(dataset, label_map, model)
    dataset.SegmentSequence = _descriptions(segments, model, uids, caveats)
    set_dimensions(dataset, uids)
    dataset.SharedFunctionalGroupsSequence = [shared_groups(sources[0], label_map)]
    dataset.PerFrameFunctionalGroupsSequence = per_frame_groups(frames, sources)
    dataset.NumberOfFrames = len(frames)
    bits = packed(label_map.array[f.slice_index] == f.label for f in frames)
    dataset.add_new("PixelData", "OB", bits)
    write_as_it_is(dataset)
    return dataset


def file_bytes(segmentation: Dataset) -> bytes:
    """The Segmentation as a DICOM file (PS3.10 7)."""
    buffer = BytesIO()
    dcmwrite(buffer, segmentation, enforce_file_format=True)
    return buffer.getvalue()


def _in_slice_order(
    source: SourceSeries, label_map: LabelMap, planes: Sequence[Plane] | None
) -> list[SourcePlane]:
    """The plane of each slice of the label map, found by its position. Raises Fatal."""
    by_uid = {str(required(one, "SOPInstanceUID")): one for one in source.instances}
    if planes is None:
        for instance in source.instances:
            required(instance, "Rows")  # or it is no image, and has no planes
        planes = [plane for instance in source.instances for plane in planes_of(instance)]
    slices = label_map.slice_positions
    allowed = tolerance_mm(float(np.linalg.norm(label_map.affine[:3, 0])))
    by_slice: dict[int, SourcePlane] = {}
    for plane in planes:
        instance = by_uid[plane.sop_instance_uid]
        _require_grid(plane, instance, label_map)
        off = np.linalg.norm(slices - np.asarray(plane.position), axis=1)
        index = int(np.argmin(off))
        if not off[index] <= allowed:
            raise Fatal(
                f"{plane} lies {off[index]:.2f} mm off: the planes of the Series do not lie on the "
                f"{len(slices)} slices of the label map"
            )
        if index in by_slice:
            other = by_slice[index].instance
            raise Fatal(f"{name_of(other)} and {name_of(instance)} lie on one slice")
        by_slice[index] = SourcePlane(instance, plane.frame)
    count = len(slices)
    if sorted(by_slice) != list(range(count)):
        raise Fatal(
            f"the {len(by_slice)} planes of the Series do not lie on the {count} slices "
            "of the label map"
        )
    return [by_slice[index] for index in range(count)]


def _require_grid(plane: Plane, instance: Dataset, label_map: LabelMap) -> None:
    if plane.position is None:
        raise Fatal(f"{plane} has no ImagePositionPatient: a Segmentation cannot lie on it")
    shape = (required(instance, "Rows"), required(instance, "Columns"))
    if shape != label_map.array.shape[1:]:
        raise Fatal(
            f"{name_of(instance)} has {shape[0]} × {shape[1]} pixels (rows, columns), the label "
            f"map {label_map.array.shape[1]} × {label_map.array.shape[2]}"
        )
    if required(instance, "FrameOfReferenceUID") != label_map.frame_of_reference_uid:
        raise Fatal(f"{name_of(instance)} is not in the label map's Frame of Reference")


def _contents(label_map: LabelMap, model: Model) -> tuple[list[Segment], list[Frame]]:
    """The Segments to declare and their frames, in order. Raises Fatal for an unknown label.

    A Segment without a frame hangs a viewer (OHIF #3991), so it is not declared.
    """
    labels = [set(np.unique(plane).tolist()) - {0} for plane in label_map.array]
    present = set().union(*labels)
    unknown = sorted(present - {segment.number for segment in model.segments})
    if unknown:
        raise Fatal(f"label {unknown[0]} is in the label map, but {model.name} has no such Segment")
    if not model.segments:
        raise Fatal(f"{model.name} has no Segments: there is nothing to encode")
    segments = [s for s in model.segments if not present or s.number in present]
    middle = len(labels) // 2
    frames = [
        Frame(number, segment.number, index)
        for number, segment in enumerate(segments, start=1)
        for index in range(len(labels))
        if segment.number in labels[index] or (not present and index == middle)
    ]
    return segments, frames


def _describe_image(dataset: Dataset, label_map: LabelMap, model: Model) -> None:
    """General Image and Segmentation Image Modules for one bit a voxel, PS3.3 C.8.20.2."""
    assumed = f"; {ORIENTATION_ASSUMED}" if model.orientation_assumed else ""
    dataset.ContentLabel = "SEGMENTATION"
    dataset.ContentDescription = RESEARCH_USE + assumed
    dataset.ContentCreatorName = None
    dataset.ImageType = ["DERIVED", "PRIMARY"]
    dataset.SegmentationType = "BINARY"
    dataset.SegmentsOverlap = "NO"
    dataset.Rows, dataset.Columns = label_map.array.shape[1:]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PresentationLUTShape = "IDENTITY"
    dataset.BitsAllocated = 1
    dataset.BitsStored = 1
    dataset.HighBit = 0
    dataset.PixelRepresentation = 0
    if not dataset.get("LossyImageCompression"):
        dataset.LossyImageCompression = "00"


def _descriptions(
    segments: Sequence[Segment], model: Model, uids: ResultUIDs, caveats: Sequence[Caveat]
) -> list[SegmentDescription]:
    algorithm = _algorithm(model, caveats)
    return [
        _description(number, segment, model, uids, algorithm)
        for number, segment in enumerate(segments, start=1)
    ]


def _description(
    number: int,
    segment: Segment,
    model: Model,
    uids: ResultUIDs,
    algorithm: AlgorithmIdentificationSequence,
) -> SegmentDescription:
    """One item of the Segment Sequence, PS3.3 C.8.20.4; colour as PCS values, C.10.7.1.1."""
    description = SegmentDescription(
        segment_number=number,
        segment_label=long_string(segment.label),
        segmented_property_category=sr_code(segment.category),
        segmented_property_type=sr_code(segment.type),
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
        tracking_id=tracking_id(model, segment),
        tracking_uid=derive_uid("tracking", uids.sop_instance_uid, str(segment.number)),
        anatomic_regions=[sr_code(segment.region)] if segment.region else None,
        display_color=CIELabColor.from_rgb(*segment.colour),
    )
    if segment.laterality:  # PS3.16 CID 244
        modified = description.SegmentedPropertyTypeCodeSequence[0]
        modified.SegmentedPropertyTypeModifierCodeSequence = [code_item(segment.laterality)]
    return description


def _algorithm(model: Model, caveats: Sequence[Caveat]) -> AlgorithmIdentificationSequence:
    """Which Model, and how it was run (PS3.3 10.16)."""
    previous, profile = model.previous_stage, model.profile
    return AlgorithmIdentificationSequence(
        name=long_string(model.title, profile_mark(model)),
        family=sr_code(_ARTIFICIAL_INTELLIGENCE),
        version=long_string(f"{model.version[:48]} {model.fingerprint[:12]}"),
        parameters={
            "model": model.name,
            "configuration": model.configuration,
            "folds": "+".join(model.folds),
            "checkpoint": model.checkpoint_name,
            "orientation": model.orientation + " (assumed)" * model.orientation_assumed,
            "fingerprint": model.fingerprint,
            **({"previous stage": previous.configuration} if previous else {}),
            **({"profile": f"{profile}: {CHANGES[profile]}"} if profile in CHANGES else {}),
            **{caveat.name: caveat.words for caveat in caveats},
        },
    )
