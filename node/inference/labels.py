"""The labels of dataset.json as Segments: which value, which name, which code, which colour."""

import colorsys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from node.core.anatomy import TISSUE, Segment
from node.core.errors import ConfigError
from node.core.suggest import did_you_mean
from node.inference.description import SegmentSection

_NO_SEGMENT = ("background", "ignore")
_LONGEST = 64  # characters, PS3.3 C.8.20.2: Segment Label is LO


def segments(
    dataset: Mapping[str, Any], dataset_path: Path, described: Mapping[str, SegmentSection]
) -> tuple[Segment, ...]:
    """One Segment per foreground label, in the order of their numbers.

    Labels that `described` leaves out are tissue, with their name from dataset.json and a colour
    of their own. Raises ConfigError for labels that contradict themselves or are not there.
    """
    labels = _foreground(dataset, dataset_path)
    for name in described:
        if name not in labels:
            raise ConfigError(
                f'{dataset_path.parent / "model.toml"}: "segments.{name}": the model has no '
                f'label "{name}"{did_you_mean(name, list(labels))}'
            )
    numbers = _numbers(labels, dataset, dataset_path)
    names, covered = _names(labels, dataset_path), _covered(labels)
    return tuple(
        replace(_segment(numbers[name], names[name], described.get(name)), covered=name in covered)
        for name in sorted(numbers, key=numbers.__getitem__)
    )


def _foreground(dataset: Mapping[str, Any], path: Path) -> dict[str, frozenset[int]]:
    """Every label that is predicted, with the training values it stands for."""
    labels = dataset.get("labels")
    if not isinstance(labels, dict) or labels.get("background") != 0:
        raise ConfigError(f'{path}: "labels" has no "background" = 0: not an nnU-Net v2 dataset')
    try:
        members = {
            name: frozenset(map(int, value if isinstance(value, list) else [value]))
            for name, value in labels.items()
            if name not in _NO_SEGMENT
        }
    except (TypeError, ValueError) as error:
        raise ConfigError(f'{path}: "labels" holds more than whole numbers: {error}') from error
    return {name: values for name, values in members.items() if values != {0}}


def _numbers(
    labels: Mapping[str, frozenset[int]], dataset: Mapping[str, Any], path: Path
) -> dict[str, int]:
    """The value of every label in the LabelMap, as nnU-Net's LabelManager paints it."""
    if not labels:
        raise ConfigError(f'{path}: "labels" has nothing but background')
    if not _has_regions(labels):
        numbers = {name: min(values) for name, values in labels.items()}
        if sorted(numbers.values()) != list(range(1, len(numbers) + 1)):
            raise ConfigError(f'{path}: "labels" are not numbered 1, 2, 3, … without a gap')
        return numbers
    order = _class_order(dataset, len(labels), path)
    if max(order) > 255 and len(frozenset().union(*labels.values())) < 255:
        raise ConfigError(
            f'{path}: "regions_class_order": nnU-Net stores so few labels in 8 bits, and '
            f"{max(order)} does not fit"
        )
    return dict(zip(labels, order, strict=True))


def _class_order(dataset: Mapping[str, Any], count: int, path: Path) -> list[int]:
    order = dataset.get("regions_class_order")
    numbers = isinstance(order, list) and all(isinstance(n, int) and n > 0 for n in order)
    if isinstance(order, list) and numbers and len(set(order)) == len(order) == count:
        return order
    raise ConfigError(
        f'{path}: "regions_class_order" must give each of the {count} regions a number of its '
        f"own, not {order!r}"
    )


def _names(labels: Mapping[str, frozenset[int]], path: Path) -> dict[str, str]:
    """What each number shows. A region that later ones are painted over keeps only its rest."""
    covered = _covered(labels)
    names = {}
    for name in labels:
        names[name] = f"{name} (rest)" if name in covered else name
        if len(names[name]) > _LONGEST:
            raise ConfigError(f'{path}: label "{name}" is longer than {_LONGEST} characters')
    return names


def _covered(labels: Mapping[str, frozenset[int]]) -> set[str]:
    """The regions that later ones are painted over."""
    ordered = list(labels)  # regions are painted in this order
    return {
        name
        for at, name in enumerate(ordered)
        if _has_regions(labels) and any(labels[name] & labels[later] for later in ordered[at + 1 :])
    }


def _has_regions(labels: Mapping[str, frozenset[int]]) -> bool:
    return any(len(values) > 1 for values in labels.values())


def _segment(number: int, name: str, described: SegmentSection | None) -> Segment:
    colour = default_colour(number)
    if described is None:
        return Segment(number, name, category=TISSUE, type=TISSUE, colour=colour)
    return Segment(
        number=number,
        label=described.label or name,
        category=described.category.code(),
        type=described.type.code(),
        colour=_rgb(described.colour) if described.colour else colour,
        region=described.region.code() if described.region else None,
        laterality=described.laterality.code() if described.laterality else None,
        guessed=described.guessed,
    )


def _rgb(text: str) -> tuple[int, int, int]:
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


def default_colour(number: int) -> tuple[int, int, int]:
    """sRGB 0–255, far from its neighbours': the hue goes round by the golden ratio."""
    value = (0.95, 0.75, 0.6)[number % 3]
    red, green, blue = colorsys.hsv_to_rgb(number * 0.61803398875 % 1.0, 0.7, value)
    return round(red * 255), round(green * 255), round(blue * 255)
