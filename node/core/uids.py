"""UIDs and fingerprints derived from what goes in, so that every retry names the same object."""

import hashlib
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from node.core.names import SeriesInstanceUID, SOPInstanceUID

_NAMESPACE = uuid.UUID("6f0c6a0e-3f0a-5b0e-9d55-9a3f5c1d7e42")  # of this product; never change


@dataclass(frozen=True)
class ResultUIDs:
    """The identity of one Job's result, chosen before the work starts."""

    series_instance_uid: SeriesInstanceUID
    sop_instance_uid: SOPInstanceUID


def derive_uid(*parts: str) -> str:
    """A UID under 2.25 from the given parts: the same parts give the same UID (PS3.5 B.2)."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, chr(31).join(parts)).int}"


def result_uids(input_fingerprint: str, model_fingerprint: str) -> ResultUIDs:
    """The UIDs of the SEG that this input and this model give, today and after any crash."""
    return ResultUIDs(
        SeriesInstanceUID(derive_uid("seg-series", input_fingerprint, model_fingerprint)),
        SOPInstanceUID(derive_uid("seg-instance", input_fingerprint, model_fingerprint)),
    )


def input_fingerprint(sha256_by_series: Iterable[Mapping[str, str]]) -> str:
    """SHA-256 over every Instance of every Series of a Job, one mapping per channel.

    Each mapping gives the SHA-256 of the data set by SOP Instance UID. The order in which the
    Instances arrived does not matter; the order of the channels does.
    """
    digest = hashlib.sha256()
    for series in sha256_by_series:
        for sop_instance_uid in sorted(series):
            digest.update(f"{sop_instance_uid} {series[sop_instance_uid]}\n".encode())
        digest.update(b"--\n")
    return digest.hexdigest()
