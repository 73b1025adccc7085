"""Segnode: a DICOM node that segments series with nnU-Net v2 models. Not a medical device."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("segnode")
except PackageNotFoundError:  # run from a checkout that was not installed
    __version__ = "0+unknown"
