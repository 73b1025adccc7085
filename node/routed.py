"""`segnode routes test`: what the Routes would do with a folder of files, nothing received."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread

from node.core.errors import SeriesRejected
from node.core.model import Model
from node.core.names import SeriesInstanceUID
from node.core.text import counted
from node.dicom.assemble import admit, assemble
from node.dicom.inbox import read_files
from node.dicom.receiver.rehearsal import Rehearsal
from node.dicom.routing import Fit, Route, fit
from node.predict import series_in


@dataclass(frozen=True)
class Routed:
    """What each Route makes of one Series. refusals: by Model, why it would not take it.

    not_received: by reason, how many instances the receiver would refuse; where it is all of them
    there are no fits.
    """

    series_instance_uid: SeriesInstanceUID
    modality: str
    instances: int
    fits: Sequence[Fit]
    refusals: Mapping[str, str]
    not_received: Mapping[str, int]


def routed(
    folder: Path, routes: Sequence[Route], models: Mapping[str, Model], rehearse: Rehearsal
) -> Iterator[Routed]:
    """Each Series of a folder, and of the folders below, held against every Route."""
    for uid, found in series_in(folder, images_only=False).items():
        answers = {path: rehearse(path) for path in found}
        not_received = Counter(reason for reason in answers.values() if reason is not None)
        paths = [path for path, reason in answers.items() if reason is None]
        if not paths:
            header = dcmread(found[0], stop_before_pixels=True)
            shown = SeriesInstanceUID(uid[:64])
            yield Routed(shown, _modality(header), len(found), (), {}, not_received)
            continue
        header = dcmread(_first(paths), stop_before_pixels=True)
        fits = [fit(route, header) for route in routes]
        wanted = dict.fromkeys(one.route.model for one in fits if one.matches)
        refusals = {name: _refusal(uid, paths, models[name]) for name in wanted}
        yield Routed(
            SeriesInstanceUID(uid[:64]),  # a hostile one is no UID, and long
            _modality(header),
            len(found),
            fits,
            {name: reason for name, reason in refusals.items() if reason is not None},
            not_received,
        )


def _first(paths: Sequence[Path]) -> Path:
    """The file that the node would route by: the first by SOP Instance UID."""

    def name(path: Path) -> str:
        try:
            header = dcmread(path, stop_before_pixels=True)
            return f"i{header.get('SOPInstanceUID')}.dcm"
        except Exception:  # a hostile UID; the node would not have taken it
            return "~"

    return min(paths, key=name)


def _modality(header: Dataset) -> str:
    try:
        return str(header.get("Modality") or "")[:16]
    except Exception:  # an odd value, see the conditions for it
        return ""


def _refusal(uid: SeriesInstanceUID, paths: Sequence[Path], model: Model) -> str | None:
    try:
        source = read_files(uid, paths)
        admit(source, model.accepts)
        assemble(source, model.accepts)
    except SeriesRejected as error:
        return str(error)
    except Exception as error:  # hostile bytes make pydicom raise almost anything
        return f"its files cannot be read: {type(error).__name__}"
    return None


def routed_values(one: Routed) -> dict[str, Any]:
    """One Series as it appears in `routes test --json`."""
    return {
        "series_instance_uid": one.series_instance_uid,
        "modality": one.modality,
        "instances": one.instances,
        "not_received": [
            {"reason": reason, "instances": count} for reason, count in one.not_received.items()
        ],
        "routes": [_fit_values(each, one.refusals) for each in one.fits],
    }


def _fit_values(held: Fit, refusals: Mapping[str, str]) -> dict[str, Any]:
    names = list(held.failed)
    return {
        "route": held.route.name,
        "model": held.route.model,
        "matches": held.matches,
        "channels": [names[number] for number in held.channels if names[number]],
        "failed": [
            {"channel": name or None, **vars(failed)}
            for name, found in held.failed.items()
            for failed in found
        ],
        "model_refuses": refusals.get(held.route.model) if held.matches else None,
    }


def routed_lines(one: Routed) -> list[str]:
    """One Series, for `routes test`."""
    lines = [
        f"Series {one.series_instance_uid or 'without a UID'} ({one.modality or 'no modality'}, "
        f"{counted(one.instances, 'instance')})",
        *(
            f"  the receiver would refuse {_of_all(count, one.instances)}: {reason}"
            for reason, count in one.not_received.items()
        ),
    ]
    if sum(one.not_received.values()) == one.instances:
        return lines
    for each in one.fits:
        lines += _fit_lines(each, one.refusals)
    if not any(each.matches for each in one.fits):
        lines.append("  unrouted: no route matches")
    return lines


def _of_all(count: int, instances: int) -> str:
    return "it" if count == instances else f"{count} of {instances}"


def _fit_lines(held: Fit, refusals: Mapping[str, str]) -> list[str]:
    route = held.route
    head = f'  route "{route.name}"'
    failed = [
        f"    {f'{name}: ' if name else ''}{condition}"
        for name, found in held.failed.items()
        for condition in found
    ]
    if not held.matches:
        return [f"{head} does not match:", *failed]
    names = list(held.failed)
    channels = [names[number] for number in held.channels if names[number]]
    there = f", channel {' and '.join(channels)}" if channels else ""
    refusal = refusals.get(route.model)
    return [
        f"{head} matches{there} → {route.model} → {', '.join(route.send_to)}",
        f"    {route.model} {f'would refuse it: {refusal}' if refusal else 'would take it'}",
        *failed,
    ]
