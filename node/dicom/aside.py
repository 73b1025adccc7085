"""What lies in aside/: data sets that could not be kept in a Series, each with its reason."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydicom.filereader import read_file_meta_info

from node.dicom.inbox import association_of

_MOST_READ: Final = 1000  # a sender that is refused for ever is not read for ever


@dataclass(frozen=True)
class SetAside:
    """One file of aside/. reason: why it is there, in words."""

    file: str
    reason: str


def brought_by(data_dir: Path, associations: Collection[str]) -> Mapping[str, SetAside]:
    """What these Associations brought and we did not keep, by the SOP Instance UID it came under.

    Only what was answered 0xC000 is kept there: what had another SOP Instance UID than its request
    (0xA900) is not.
    """
    found: dict[str, SetAside] = {}
    ours = [
        p for p in sorted((data_dir / "aside").glob("*.dcm")) if association_of(p) in associations
    ]
    for path in ours[:_MOST_READ]:
        try:
            uid = str(read_file_meta_info(path).MediaStorageSOPInstanceUID)
            reason = path.with_suffix(".txt").read_text(encoding="utf-8", errors="replace").strip()
        except Exception:  # deleted meanwhile, or damaged: nothing to tell of it
            continue
        found[uid] = SetAside(path.name, reason[:500])
    return found
