"""Series of real files that make a volume."""

from pathlib import Path
from typing import Final

from node.core.model import InputRules
from node.core.names import SeriesInstanceUID
from node.dicom.inbox import read_files
from node.dicom.scu.instance import dicom_files
from node.dicom.series import SourceSeries

# Real Series that make a volume, of all kinds; the rules that they need beside the usual.
REAL: Final = {
    "dicom/mr_hippocrop_1": InputRules(),
    "dicom/mr_siemens_prone_sagittal": InputRules(),
    "dicom/mr_siemens_j2k_fragments": InputRules(),
    "dicom/ct_philips_study/S2010": InputRules(),
    "dicom/ct_philips_tilt": InputRules(resample=True),
    "dicom/dicom2nifti/philips_enhanced/anatomical/001": InputRules(),
}


def real_source(folder: Path) -> SourceSeries:
    """The Series of a folder of real files, each with a Frame of Reference."""
    series = read_files(SeriesInstanceUID(""), dicom_files(folder))
    for instance in series.instances:
        if not instance.get("FrameOfReferenceUID"):
            instance.FrameOfReferenceUID = "1.2.840.99"
    return series
