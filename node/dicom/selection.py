"""Which of several volumes a Model selects: conditions on what tells them apart."""

from collections.abc import Mapping, Sequence
from typing import Final

from node.core.conditions import Conditions
from node.core.errors import ConfigError
from node.core.model import Model
from node.core.suggest import did_you_mean
from node.dicom.matching import failed_conditions, refusal
from node.dicom.planes import TRAITS, Plane

SELECTABLE: Final = (*TRAITS, "AcquisitionNumber")


def not_selected(planes: Sequence[Plane], select: Conditions) -> str | None:
    """Which Plane does not fulfil a condition, and why; None where all fulfil all."""
    for plane in planes if select else ():
        for failed in failed_conditions(_values(plane), select)[:1]:
            return f"the Model selects another: {failed} in {plane}"
    return None


def check_select(model: Model) -> None:
    """Raises ConfigError for a condition that no volume can ever fulfil."""
    where = f"{model.folder / 'model.toml'}: input.select"
    for keyword, wanted in model.accepts.select.items():
        if keyword not in SELECTABLE:
            hint = did_you_mean(keyword, SELECTABLE)
            raise ConfigError(f'{where}: no volume is selected by "{keyword}"{hint}')
        if sentence := refusal(keyword, wanted):
            raise ConfigError(f"{where}: {sentence}")


def _values(plane: Plane) -> Mapping[str, list[str]]:
    values = {keyword: text.split("\\") for keyword, text in (plane.traits or {}).items()}
    if plane.acquisition_number is not None:
        values["AcquisitionNumber"] = [str(plane.acquisition_number)]
    return values
