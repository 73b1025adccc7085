"""Files in incoming/, as the receiver leaves them: Instances, and how their Association ended."""

import itertools
import json
import time
from collections.abc import Iterable
from pathlib import Path

from pydicom import Dataset
from pynetdicom.dsutils import encode

from node.dicom.inbox import Inbox, write_durably
from node.dicom.receiver.part10 import part_10_header

_numbers = itertools.count(1)


def new_association() -> str:
    """A name that no other has."""
    return f"test.{next(_numbers)}"


def keep(
    inbox: Inbox,
    instances: Iterable[Dataset],
    ending: str | None = "released",
    association: str | None = None,
    calling: str = "MODALITY",
) -> str:
    """One Association brings these; ending: None while it is still open. Returns its name."""
    name = association or new_association()
    incoming = inbox.incoming_folder
    for one in instances:
        encoded = encode(one, False, True)
        assert encoded is not None
        uids = str(one.SOPClassUID), str(one.SOPInstanceUID)
        syntax = str(one.file_meta.TransferSyntaxUID)
        path = incoming / f"{time.time_ns():020d}-{name}-{next(_numbers):08d}.dcm"
        write_durably(path, part_10_header(*uids, syntax, calling), encoded)
    if ending is not None:
        end(incoming, name, ending, calling)
    return name


def end(incoming: Path, association: str, ending: str, calling: str = "MODALITY") -> None:
    """The Association is over."""
    told = {
        "association": association,
        "ending": ending,
        "calling_ae_title": calling,
        "address": "127.0.0.1",
        "began_at": time.time(),
        "ended_at": time.time(),
    }
    half = incoming / f"{association}.end.part"
    half.write_text(json.dumps(told))
    half.rename(incoming / f"{time.time_ns():020d}-{association}.end")


def lose(incoming: Path, receiver: str) -> None:
    """A receiving process died with all that it had open."""
    told = {"receiver": receiver, "ending": "lost"}
    (incoming / f"{time.time_ns():020d}-{receiver}.end").write_text(json.dumps(told))
