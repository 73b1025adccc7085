"""One line of `segnode check`."""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "note", "FAULT"]


@dataclass(frozen=True)
class Finding:
    """What was looked at, and whether it must be mended."""

    verdict: Verdict
    subject: str
    sentence: str
