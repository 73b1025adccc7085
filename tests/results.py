"""Small result objects, for tests in which what they say does not matter."""

from io import BytesIO

from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from node.core.result import ObjectRef


def part_10(ref: ObjectRef) -> bytes:
    """A Part 10 file with the identity of an object and no more."""
    dataset = Dataset()
    dataset.SOPClassUID = ref.sop_class_uid
    dataset.SOPInstanceUID = ref.sop_instance_uid
    dataset.StudyInstanceUID = "1.2"
    dataset.SeriesInstanceUID = ref.series_instance_uid
    dataset.Modality = "SEG"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = UID(ref.sop_class_uid)
    dataset.file_meta.MediaStorageSOPInstanceUID = UID(ref.sop_instance_uid)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()
