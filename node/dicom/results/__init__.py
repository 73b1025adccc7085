"""The DICOM objects that a Job makes, and the gate that each passes before it leaves."""
