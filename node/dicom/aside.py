"""What lies in aside/: data sets that could not be kept in a Series, each with its reason."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydicom.filereader import read_file_meta_info

from node.core.text import clean

_MOST_READ: Final = 1000  # a sender that is refused for ever is not read for ever


@dataclass(frozen=True)
class SetAside:
    """One file of aside/. reason: why it is there, in words."""

    file: str
    reason: str


def refused_of(data_dir: Path, uids: Collection[str]) -> Mapping[str, SetAside]:
    """Those of these SOP Instance UIDs that were refused, as their requests named them.

    Only what was answered 0xC000 is kept there: what had another SOP Instance UID than its request
    (0xA900) is not.
    """
    found: dict[str, SetAside] = {}
    latest = sorted((data_dir / "aside").glob("*.dcm"), reverse=True)[:_MOST_READ] if uids else []
    for path in latest:
        try:
            uid = str(read_file_meta_info(path).MediaStorageSOPInstanceUID)
            reason = path.with_suffix(".txt").read_text(encoding="utf-8", errors="replace").strip()
        except Exception:  # deleted meanwhile, or damaged: nothing to tell of it
            continue
        if uid in uids:
            found.setdefault(uid, SetAside(path.name, clean(reason[:500])))
    return found
