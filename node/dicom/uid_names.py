"""What the Standard calls a SOP Class or a Transfer Syntax (PS3.6 A)."""

from collections.abc import Mapping
from typing import Final

from pydicom.uid import UID

# Newer than pydicom's dictionary, and made here.
_NEWER: Final[Mapping[str, str]] = {
    "1.2.840.10008.5.1.4.1.1.66.7": "Label Map Segmentation Storage",
    "1.2.840.10008.1.2.8.1": "Deflated Image Frame Compression",
}


def uid_name(uid: str) -> str:
    """Its name; the UID itself where it has none that is known."""
    return _NEWER.get(uid) or UID(uid).name
