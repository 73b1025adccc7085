"""Text that others wrote, made fit for a database, a log and a screen."""

import re
from typing import Final

# Half a surrogate pair (no encoding takes it), NUL and the other control characters.
_UNFIT: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def clean(text: str) -> str:
    """The text with "?" for each character that cannot be stored or would act on a terminal."""
    return _UNFIT.sub("?", text)


def counted(number: int, noun: str) -> str:
    """1 instance, 2 instances."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
