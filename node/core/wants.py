"""Profiles of Peers: what is known to work where, with every setting open to be changed."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from node.core.result import ObjectRef, ResultKind, SegForm, SegType, Wants, rejection_form

# What each is known to need is said in docs/peers.md, with where it is known from.
PROFILES: Final[Mapping[str, Wants]] = {
    "default": Wants(),
    "ohif": Wants(),
    "weasis": Wants(SegForm(max_frames=400)),
    "slicer": Wants(),
    "dcm4chee": Wants(),
    "orthanc": Wants(),
}
NO_SEGMENTATION: Final = "none"


def wants_of(profile: str, changes: Mapping[str, Any]) -> Wants:
    """A profile with some settings changed; those that are None stay as the profile has them.

    Raises ValueError where the settings contradict each other.
    """
    given = {name: value for name, value in changes.items() if value is not None}
    wants = PROFILES[profile]
    form = _form(wants.segmentation, given)
    changed = replace(
        wants,
        segmentation=form,
        **{name: value for name, value in given.items() if name not in _FORM},
    )
    if changed.report and changed.segmentation is None:
        if "report" in given:
            raise ValueError("report = true needs a segmentation, whose Segments it refers to")
        changed = replace(changed, report=False)
    return changed


_FORM: Final = ("segmentation", "empty_frames", "max_frames", "compression")


def _form(form: SegForm | None, given: Mapping[str, Any]) -> SegForm | None:
    changes = {name: given[name] for name in _FORM if name in given}
    kind = changes.pop("segmentation", None)
    if kind == NO_SEGMENTATION:
        return None
    if kind is not None:
        changes["type"] = SegType(kind)
    return replace(form or SegForm(), **changes)


def wanted(
    wants: Wants, objects: Sequence[ObjectRef], rejects: Sequence[ObjectRef] = ()
) -> list[ObjectRef]:
    """Those of a Job's result objects that a Peer gets, in the order in which they are sent.

    A Segmentation goes before the Report that refers to it. rejects: what the Peer was given before
    and the Job takes the place of; only the note of just that is for it.
    """
    form = wants.segmentation.name if wants.segmentation else None
    gets = {
        ResultKind.SEGMENTATION: form is not None,
        ResultKind.REPORT: wants.report,
        ResultKind.STRUCTURE_SET: wants.structure_set,
        ResultKind.CAPTURE: wants.capture,
        ResultKind.REFUSAL: wants.refusal_report,
        ResultKind.REJECTION: wants.rejection_note,
    }
    forms = {
        ResultKind.SEGMENTATION: form,
        ResultKind.REPORT: form,
        ResultKind.REJECTION: rejection_form(rejects),
    }
    order = list(ResultKind)
    return sorted(
        (one for one in objects if gets[one.kind] and forms.get(one.kind, one.form) == one.form),
        key=lambda one: order.index(one.kind),
    )
