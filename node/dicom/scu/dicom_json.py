"""DICOM JSON (PS3.18 F) as Peers answer with it: foreign bytes, of which nothing is believed."""

import json
import re
from itertools import accumulate
from typing import Any, Final

_DEEPEST: Final = 64  # a Store Instances Response has five levels
_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_OPEN_OR_CLOSED: Final = re.compile(r"[\[{\]}]")

Item = dict[str, Any]


def decoded(raw: bytes) -> Any:
    """What the bytes say. Raises ValueError where they are no JSON, or nested without an end."""
    text = raw.decode("utf-8-sig")  # RFC 8259 8.1
    brackets = _OPEN_OR_CLOSED.findall(_STRING.sub("", text))
    if max(accumulate(1 if one in "[{" else -1 for one in brackets), default=0) > _DEEPEST:
        raise ValueError(f"more than {_DEEPEST} levels")
    return json.loads(text)


def data_set(raw: bytes) -> Item:
    """The one data set that is answered; empty where it is not DICOM JSON."""
    try:
        answer = decoded(raw)
    except ValueError:
        return {}
    if isinstance(answer, list) and answer:
        answer = answer[0]
    return answer if isinstance(answer, dict) else {}


def items(item: Item, tag: str) -> list[Item]:
    """Of a sequence; what is no item is left out."""
    values = _values(item, tag)
    return [one for one in values if isinstance(one, dict)] if isinstance(values, list) else []


def uid(item: Item, tag: str) -> str | None:
    """None where it has none."""
    value = _first(item, tag)
    return value.rstrip(" \0") if isinstance(value, str) else None


def code(item: Item, tag: str) -> int | None:
    """Of 16 bits; None where it has none."""
    value = _first(item, tag)
    return value if isinstance(value, int) and 0 <= value <= 0xFFFF else None


def _values(item: Item, tag: str) -> Any:
    element = item.get(tag)
    return element.get("Value") if isinstance(element, dict) else None


def _first(item: Item, tag: str) -> Any:
    values = _values(item, tag)
    return values[0] if isinstance(values, list) and values else None
