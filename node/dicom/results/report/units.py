"""What the voxels of an image measure, and in which unit, as its header states it."""

from dataclasses import dataclass
from typing import Final

from pydicom import Dataset

from node.core.anatomy import Code


@dataclass(frozen=True)
class Quantity:
    """What is measured (PS3.16 CID 7469) and its unit (CID 83, 84)."""

    concept: Code
    unit: Code


NO_UNITS: Final = Code("1", "UCUM", "no units")
_HOUNSFIELD: Final = Quantity(
    Code("112031", "DCM", "Attenuation Coefficient"), Code("[hnsf'U]", "UCUM", "Hounsfield unit")
)
_SIGNAL: Final = Quantity(Code("110852", "DCM", "MR signal intensity"), NO_UNITS)
_ACTIVITY: Final = Code("110821", "DCM", "Nuclear Medicine Tomographic Activity")

# Units (0054,1001), PS3.3 C.8.9.1.1.3. What is not listed has no name in CID 84, or several.
_PET: Final = {
    "BQML": Quantity(_ACTIVITY, Code("Bq/ml", "UCUM", "Becquerels/milliliter")),
    "CNTS": Quantity(_ACTIVITY, Code("{counts}", "UCUM", "Counts")),
    "CPS": Quantity(_ACTIVITY, Code("{counts}/s", "UCUM", "Counts per second")),
    "PROPCNTS": Quantity(_ACTIVITY, Code("{propcounts}", "UCUM", "Proportional to counts")),
    "PROPCPS": Quantity(
        _ACTIVITY, Code("{propcounts}/s", "UCUM", "Proportional to counts per second")
    ),
}
# SUV Type (0054,1006), PS3.3 C.8.9.1.1.4; without one it is body weight.
_SUV: Final = {
    "BSA": ("126403", "SUVbsa", "cm2/ml{SUVbsa}", "body surface area"),
    "BW": ("126401", "SUVbw", "g/ml{SUVbw}", "body weight"),
    "LBM": ("126402", "SUVlbm", "g/ml{SUVlbm}", "lean body mass (James)"),
    "LBMJANMA": ("126405", "SUVlbm(Janma)", "g/ml{SUVlbm(Janma)}", "lean body mass (Janma)"),
    "LBMJAMES128": (
        "126406",
        "SUVlbm(James128)",
        "g/ml{SUVlbm(James128)}",
        "lean body mass (James 128 multiplier)",
    ),
    "IBW": ("126404", "SUVibw", "g/ml{SUVibw}", "ideal body weight"),
}
_SUV_UNITS: Final = {"GML": "BW", "CM2ML": "BSA"}  # and the type where none is stated


def quantity_of(instance: Dataset) -> Quantity | None:
    """What the modality values of an image are; None where its header does not say so."""
    modality = str(instance.get("Modality") or "")
    if modality == "MR":
        return _SIGNAL
    if modality == "CT":
        return _HOUNSFIELD if _rescale_type(instance) in ("", "HU", "HU_MOD") else None
    return _of_pet(instance) if modality == "PT" else None


def _of_pet(instance: Dataset) -> Quantity | None:
    units = str(instance.get("Units") or "") or _rescale_type(instance)
    if units not in _SUV_UNITS:
        return _PET.get(units)
    suv = _SUV.get(str(instance.get("SUVType") or _SUV_UNITS[units]))
    if suv is None or suv[2].startswith("cm2") != (units == "CM2ML"):
        return None
    value, meaning, unit, normalized = suv
    return Quantity(
        Code(value, "DCM", meaning),
        Code(unit, "UCUM", f"Standardized Uptake Value {normalized}"),
    )


def _rescale_type(instance: Dataset) -> str:
    """Of a classic header, of all frames, or of the first; all frames of a volume have one."""
    if "RescaleType" in instance:
        return str(instance.RescaleType or "")
    for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        items = instance.get(groups) or [Dataset()]
        values = items[0].get("PixelValueTransformationSequence")
        if values:
            return str(values[0].get("RescaleType") or "")
    return ""
