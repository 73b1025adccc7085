"""DICOM in and out: receiving, closing, assembling, encoding, sending."""
