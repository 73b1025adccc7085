"""DICOM Segmentations in any form, and their gate."""
