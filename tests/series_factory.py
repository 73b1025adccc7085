"""Small series of known content, as a scanner would write them."""

from copy import deepcopy
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
)

from node.core.uids import derive_uid

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)


def make_series(
    slices: int = 20,
    rows: int = 24,
    columns: int = 16,
    spacing_mm: tuple[float, float, float] = (2.0, 1.0, 0.5),
    orientation: tuple[float, ...] = AXIAL,
    origin: tuple[float, float, float] = (-10.0, 20.0, 30.0),
    name: str = "series",
    voxels: NDArray[np.uint16] | None = None,
) -> list[Dataset]:
    """One MR series; spacing is (slice, row, column) mm, voxels (slice, row, column)."""
    if voxels is None:
        voxels = np.random.default_rng(7).integers(0, 900, (slices, rows, columns), np.uint16)
    normal = np.cross(orientation[:3], orientation[3:])
    instances = []
    for index, plane in enumerate(voxels):
        position = np.asarray(origin) + index * spacing_mm[0] * normal
        instances.append(_instance(name, index, plane, position, spacing_mm, orientation))
    return instances


def _instance(
    name: str,
    index: int,
    plane: NDArray[np.uint16],
    position: NDArray[np.float64],
    spacing_mm: tuple[float, float, float],
    orientation: tuple[float, ...],
) -> Dataset:
    one = Dataset()
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one.SpecificCharacterSet = "ISO_IR 192"
    one.SOPClassUID = MRImageStorage
    one.SOPInstanceUID = derive_uid(name, "instance", str(index))
    one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID
    one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
    one.StudyInstanceUID = derive_uid(name, "study")
    one.SeriesInstanceUID = derive_uid(name, "series")
    one.FrameOfReferenceUID = derive_uid(name, "frame")
    one.Modality = "MR"
    one.PatientName, one.PatientID = "Müller^Änne", "P1"
    one.PatientBirthDate, one.PatientSex = "19700101", "F"
    one.StudyDate, one.StudyTime, one.StudyID = "20240102", "030405", "1"
    one.AccessionNumber, one.ReferringPhysicianName = "A1", ""
    one.SeriesNumber, one.InstanceNumber = 3, index + 1
    one.SeriesDescription = "T1 hippocampus"
    one.ImageOrientationPatient = list(orientation)
    one.ImagePositionPatient = [round(float(value), 6) for value in position]
    one.PixelSpacing = [spacing_mm[1], spacing_mm[2]]
    one.SliceThickness = spacing_mm[0]
    one.Rows, one.Columns = plane.shape
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
    one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 0
    one.PixelData = plane.astype("<u2").tobytes()
    return one


def make_enhanced(instances: list[Dataset], uid: str = "1.2.840.1") -> Dataset:
    """The same slices as the frames of one enhanced MR image, the last slice first."""
    first, enhanced = instances[0], deepcopy(instances[0])
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        del enhanced[keyword]
    enhanced.SOPClassUID = EnhancedMRImageStorage
    enhanced.SOPInstanceUID = uid
    enhanced.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    enhanced.file_meta.MediaStorageSOPInstanceUID = UID(uid)
    enhanced.NumberOfFrames = len(instances)
    orientation, measures, shared = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = first.ImageOrientationPatient
    measures.PixelSpacing = first.PixelSpacing
    shared.PlaneOrientationSequence = [orientation]
    shared.PixelMeasuresSequence = [measures]
    enhanced.SharedFunctionalGroupsSequence = [shared]
    enhanced.PerFrameFunctionalGroupsSequence = [_frame_groups(one) for one in instances[::-1]]
    enhanced.PixelData = b"".join(one.PixelData for one in instances[::-1])
    return enhanced


def _frame_groups(one: Dataset) -> Dataset:
    groups, position, values, content = Dataset(), Dataset(), Dataset(), Dataset()
    position.ImagePositionPatient = one.ImagePositionPatient
    values.RescaleSlope = one.get("RescaleSlope", 1)
    values.RescaleIntercept, values.RescaleType = one.get("RescaleIntercept", 0), "US"
    content.StackID = "1"
    if "TemporalPositionIdentifier" in one:
        content.TemporalPositionIndex = one.TemporalPositionIdentifier
    groups.PlanePositionSequence = [position]
    groups.PixelValueTransformationSequence = [values]
    groups.FrameContentSequence = [content]
    return groups


def write_series(instances: list[Dataset], folder: Path) -> Path:
    """Writes each Instance as a Part 10 file."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, instance in enumerate(instances):
        instance.save_as(folder / f"{index:04d}.dcm", enforce_file_format=True)
    return folder


def make_ct(**values: object) -> list[Dataset]:
    """Twenty slices in Hounsfield units."""
    instances = make_series(name="ct")
    for one in instances:
        one.SOPClassUID, one.Modality = CTImageStorage, "CT"
        one.file_meta.MediaStorageSOPClassUID = CTImageStorage
        one.RescaleSlope, one.RescaleIntercept = 1.0, -1024.0
        for keyword, value in values.items():
            setattr(one, keyword, value)
    return instances


def make_pet(units: str, **values: object) -> list[Dataset]:
    """Twenty slices in these Units (0054,1001)."""
    instances = make_ct(**values)
    for one in instances:
        one.SOPClassUID, one.Modality = PositronEmissionTomographyImageStorage, "PT"
        one.file_meta.MediaStorageSOPClassUID = PositronEmissionTomographyImageStorage
        one.RescaleSlope, one.RescaleIntercept, one.Units = 0.37, 0.0, units
    return instances
