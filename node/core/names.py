"""Distinct types for the strings that must not be mixed up."""

from typing import NewType

SeriesInstanceUID = NewType("SeriesInstanceUID", str)
SOPInstanceUID = NewType("SOPInstanceUID", str)
AETitle = NewType("AETitle", str)
JobId = NewType("JobId", int)
