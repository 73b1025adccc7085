"""What the gates of all result objects hold against the Answer alike: whose it is, and codes.

A gate raises what the `wrong` of its own makes of a sentence. None says a patient's values, as
its sentence goes to the log. Encoders use nothing of this.
"""

from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import Final

from pydicom import Dataset, dcmread

from node.core.anatomy import Code
from node.core.errors import Fatal

CodedName = tuple[str, str]
Named = tuple[str, str, str, str]  # Study, Series, SOP Class and SOP Instance UID
Wrong = Callable[[str], Fatal]

# By which an archive files an object (PS3.3 C.7.1.1, C.7.2.1). Type 2 and 3: both may be empty.
_WHOSE: Final = (
    "PatientID",
    "IssuerOfPatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyInstanceUID",
)


def parsed(content: bytes, wrong: Wrong) -> Dataset:
    """A Part 10 file read with pydicom."""
    try:
        return dcmread(BytesIO(content))
    except Exception as error:  # broken bytes make the parser raise almost anything
        raise wrong(f"it cannot be parsed: {error!r}") from error


def named(one: Dataset) -> Named:
    """An Instance by all its names."""
    study, series = str(one.StudyInstanceUID), str(one.SeriesInstanceUID)
    return study, series, str(one.SOPClassUID), str(one.SOPInstanceUID)


def require_same_patient(dataset: Dataset, source: Dataset, wrong: Wrong) -> None:
    """The patient and the Study of the source Instance that the result was made of."""
    for keyword in _WHOSE:
        if _said(dataset, keyword) != _said(source, keyword):
            raise wrong(f"its {keyword} is not the source's")


def _said(dataset: Dataset, keyword: str) -> str:
    """A value without its padding; "" where there is none, or none that can be decoded."""
    try:
        return str(dataset.get(keyword) or "").strip(" \0")
    except Exception:  # a value that cannot be decoded raises almost anything
        return ""


def require_equal(stated: Mapping[str, tuple[object, object]], wrong: Wrong) -> None:
    """By name: what was found, and what was expected."""
    for name, (found, expected) in stated.items():
        if found != expected:
            raise wrong(f"its {name} is {found}, not {expected}")


def coded(item: Dataset) -> CodedName:
    """A code as value and scheme, whichever of the three attributes holds the value (PS3.3 8.8)."""
    value = item.get("CodeValue") or item.get("LongCodeValue") or item.get("URNCodeValue")
    return str(value), str(item.CodingSchemeDesignator)


def require_code(
    sequence: Sequence[Dataset] | None, code: Code | None, name: str, wrong: Wrong
) -> None:
    """Exactly the code that the Model gives, or none where it gives none. name: of what has it."""
    found = [coded(item) for item in sequence or ()]
    if code is None and found:
        raise wrong(f"{name} has the code {found[0][0]}, which the Model does not give it")
    if code is not None and found != [(code.value, code.scheme)]:
        values = " and ".join(value for value, _ in found) or "not at all"
        raise wrong(f"{name} is coded {values}, not {code.value} ({code.meaning})")


def letters(text: str) -> str:
    """What an LO cannot hold, and an encoder replaces, does not count."""
    return "".join(character for character in text if character.isalnum())
