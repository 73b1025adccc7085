"""Makes the demo series: one hippocampus of the MNI ICBM 152 template as classic MR DICOM.

The same arguments give the same bytes. Needs nilearn, which carries the template.
"""

import argparse
import uuid
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from nilearn.datasets import load_mni152_template
from pydicom import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage

CENTRE_MM = {"right": (28.0, -22.0, -14.0), "left": (-28.0, -22.0, -14.0)}  # RAS (x, y, z)
SHAPE = (36, 52, 38)  # voxels of 1 mm, RAS (x, y, z)
# Where the (slice, row, column) index grows to: as radiologists look at each plane.
DIRECTIONS = {"axial": "SPL", "sagittal": "RIP", "coronal": "PIL"}

COPYRIGHT = (
    "Copyright (C) 1993-2004 Louis Collins, McConnell Brain Imaging Centre, "
    "Montreal Neurological Institute, McGill University."
)
UID_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "segnode/config/demo")


@dataclass(frozen=True)
class Crop:
    """Voxels with their geometry.

    voxels: (slice, row, column), template intensities 0–255.
    affine: index (slice, row, column, 1) → LPS mm (x, y, z, 1).
    """

    voxels: npt.NDArray[np.uint16]
    affine: npt.NDArray[np.float64]

    def position_mm(self, index: int) -> list[float]:
        """Centre of the first voxel of a slice, LPS mm (x, y, z)."""
        return [float(mm) + 0.0 for mm in (self.affine @ (index, 0, 0, 1))[:3]]

    def orientation(self) -> list[float]:
        """Unit vectors along a row, then along a column, LPS (PS3.3 C.7.6.2.1.1)."""
        return [float(cosine) + 0.0 for cosine in (*self.affine[:3, 2], *self.affine[:3, 1])]


def uid(name: str) -> UID:
    """The UID of a thing in this demo: 2.25 and a name-based UUID (PS3.5 B.2)."""
    return UID(f"2.25.{uuid.uuid5(UID_NAMESPACE, name).int}")


def turn(directions: str) -> npt.NDArray[np.int64]:
    """For each RAS axis (x, y, z): the axis it becomes, and 1 or, turned round, -1."""
    turns = []
    for ahead, back in ("RL", "AP", "SI"):
        letter = ahead if ahead in directions else back
        turns.append((directions.index(letter), 1 if letter == ahead else -1))
    return np.array(turns)


def crop_template(side: str, orientation: str) -> Crop:
    """36×52×38 mm (RAS x, y, z) around one hippocampus, sliced in the orientation asked for."""
    template = load_mni152_template(resolution=1)  # 1 mm, scaled to 0–1
    centre = np.linalg.inv(template.affine) @ (*CENTRE_MM[side], 1)
    box = [
        slice(int(middle) - size // 2, int(middle) - size // 2 + size)
        for middle, size in zip(np.rint(centre[:3]), SHAPE, strict=True)
    ]
    crop = template.slicer[tuple(box)]
    turned = crop.as_reoriented(turn(DIRECTIONS[orientation]))
    voxels = np.rint(turned.get_fdata() * 255).astype(np.uint16)
    return Crop(voxels, np.diag([-1.0, -1.0, 1.0, 1.0]) @ turned.affine)


def series_header(side: str, name: str, number: int) -> Dataset:
    """What all instances of the series share, pixels and positions apart."""
    header = Dataset()
    # Patient, Study
    header.PatientName = "TEMPLATE^MNI152"
    header.PatientID = "MNI152"
    header.PatientBirthDate = ""
    header.PatientSex = ""
    header.StudyInstanceUID = uid("study")
    header.StudyDate = "20090101"  # the template's year
    header.StudyTime = "120000"
    header.StudyID = "MNI152"
    header.StudyDescription = "MNI ICBM 152 average brain (template, not a patient)"
    header.AccessionNumber = ""
    header.ReferringPhysicianName = ""
    # Series, Frame of Reference, Equipment
    header.Modality = "MR"
    header.SeriesInstanceUID = uid(f"series/{name}")
    header.SeriesNumber = number
    header.SeriesDescription = "MNI152 T1 hippocampus (template)"
    header.ProtocolName = f"T1 template, {side} hippocampus"
    header.BodyPartExamined = "BRAIN"
    header.PatientPosition = "HFS"
    header.FrameOfReferenceUID = uid("frame of reference")
    header.PositionReferenceIndicator = ""
    header.Manufacturer = "Segnode demo"
    header.ManufacturerModelName = "make_series.py"
    # MR Image (PS3.3 C.8.3.1); an average of many scans has no echo time of its own
    header.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    header.DerivationDescription = "Average of T1-weighted MR of many subjects; cropped"
    header.ImageComments = f"Template, not a patient. {COPYRIGHT}"
    header.ScanningSequence = "RM"  # research mode
    header.SequenceVariant = "NONE"
    header.ScanOptions = ""
    header.MRAcquisitionType = "3D"
    header.RepetitionTime = None
    header.EchoTime = None
    header.EchoTrainLength = None
    header.SamplesPerPixel = 1
    header.PhotometricInterpretation = "MONOCHROME2"
    header.BitsAllocated = 16
    header.BitsStored = 12
    header.HighBit = 11
    header.PixelRepresentation = 0
    header.WindowCenter = 150
    header.WindowWidth = 180
    return header


def instance(header: Dataset, crop: Crop, index: int, number: int) -> Dataset:
    """One slice as an MR Image Storage instance, ready to be written."""
    pixels = crop.voxels[index]
    image = Dataset()
    image.update(header)
    image.SOPClassUID = MRImageStorage
    image.SOPInstanceUID = uid(f"instance/{header.SeriesInstanceUID}/{number}")
    image.InstanceNumber = number
    image.AcquisitionNumber = 1
    image.ImagesInAcquisition = len(crop.voxels)
    image.ImagePositionPatient = crop.position_mm(index)
    image.ImageOrientationPatient = crop.orientation()
    image.PixelSpacing = [1.0, 1.0]
    image.SliceThickness = 1.0
    image.SpacingBetweenSlices = 1.0
    image.Rows, image.Columns = pixels.shape
    image.PixelData = pixels.astype("<u2").tobytes()
    image["PixelData"].VR = "OW"

    image.file_meta = FileMetaDataset()
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.ImplementationClassUID = uid("implementation")
    image.file_meta.ImplementationVersionName = "SEGNODE_DEMO"
    return image


def main() -> None:
    """Writes 001.dcm, 002.dcm, … into the output folder, in the order of Instance Number."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", choices=sorted(CENTRE_MM), default="right")
    parser.add_argument("--orientation", choices=sorted(DIRECTIONS), default="axial")
    parser.add_argument("--reverse", action="store_true", help="number the slices backwards")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "series")
    arguments = parser.parse_args()

    crop = crop_template(arguments.side, arguments.orientation)
    order = range(len(crop.voxels))
    name = f"{arguments.side}/{arguments.orientation}" + ("/reversed" if arguments.reverse else "")
    variants = sorted((side, plane) for side in CENTRE_MM for plane in DIRECTIONS)
    number = 1 + variants.index((arguments.side, arguments.orientation)) + 100 * arguments.reverse
    header = series_header(arguments.side, name, number)

    arguments.output.mkdir(parents=True, exist_ok=True)
    for count, index in enumerate(reversed(order) if arguments.reverse else order, start=1):
        image = instance(header, crop, index, count)
        image.save_as(arguments.output / f"{count:03}.dcm", enforce_file_format=True)
    print(f"{arguments.output}: {len(order)} instances, {arguments.side}, {arguments.orientation}")


if __name__ == "__main__":
    main()
