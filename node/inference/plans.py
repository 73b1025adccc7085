"""What prediction needs of plans.json and dataset.json, as nnU-Net's preprocessing left it.

Sources: nnunetv2 utilities/plans_handling/plans_handler.py, utilities/label_handling/
label_handling.py. Imports no torch; nnunetv2 only for plans of the older format.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node.core.errors import ConfigError
from node.inference.folder import DATASET, PLANS, read_json

NORMALIZATIONS = (
    "CTNormalization",
    "NoNormalization",
    "RGBTo01Normalization",
    "RescaleTo01Normalization",
    "ZScoreNormalization",
)
SPLINE = "resample_data_or_seg_to_shape"
TRILINEAR = "resample_torch_fornnunet"
UNCHANGED = "no_resampling_hack"
RESAMPLINGS = (SPLINE, TRILINEAR, UNCHANGED)
_MOST_8_BIT_LABELS = 254  # foreground labels; from 255 on nnU-Net stores 16 bits


@dataclass(frozen=True)
class Normalization:
    """How one channel is normalised. statistics: of the training set's foreground, CT only."""

    scheme: str
    use_mask: bool
    statistics: Mapping[str, float]


@dataclass(frozen=True)
class Rule:
    """How images or logits are resampled: the plans' function and its arguments."""

    function: str
    order: int = 3
    order_z: int = 0
    force_separate_z: bool | None = None
    anisotropy_threshold: float = 3.0  # nnunetv2 configuration.py, ANISO_THRESHOLD


@dataclass(frozen=True)
class Heads:
    """The network's outputs. regions_class_order: what each head paints, if they are regions."""

    count: int
    foreground: tuple[int, ...]
    regions_class_order: tuple[int, ...] | None

    @property
    def shown(self) -> Mapping[int, int]:
        """The label that each head stands for, by head; the background's is left out."""
        if self.regions_class_order is not None:
            return dict(enumerate(self.regions_class_order))
        return {head: head for head in range(1, self.count)}

    @property
    def needs_16_bits(self) -> bool:
        return len(self.foreground) > _MOST_8_BIT_LABELS


@dataclass(frozen=True, eq=False)
class Plan:
    """One configuration of a trained model.

    patch_size (voxels) and spacing_mm have the plans' axis order, after transpose_forward; both
    have two entries in a 2D configuration. previous_stage: its name, in a cascade.
    """

    patch_size: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    transpose_forward: tuple[int, int, int]
    transpose_backward: tuple[int, int, int]
    normalizations: tuple[Normalization, ...]
    image_rule: Rule
    logits_rule: Rule
    architecture: Mapping[str, Any]
    heads: Heads
    channels: int
    previous_stage: str | None
    configuration: Mapping[str, Any]

    @property
    def input_channels(self) -> int:
        """Image channels and, in a cascade, one per foreground label of the previous stage."""
        return self.channels + (len(self.heads.foreground) if self.previous_stage else 0)


def read_plan(folder: Path, configuration: str) -> Plan:
    """The named configuration of a model folder.

    Raises ConfigError naming the file for anything that is missing or cannot be run here.
    """
    plans, dataset = read_json(folder / PLANS), read_json(folder / DATASET)
    try:
        return _plan(plans, dataset, configuration)
    except ConfigError as error:
        raise ConfigError(f"{folder / PLANS}: {error}") from error
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ConfigError(
            f"{folder}: its {PLANS} or {DATASET} is not as nnU-Net writes it: {error!r}"
        ) from error


def resolve(plans: Mapping[str, Any], name: str) -> dict[str, Any]:
    """One configuration with what it inherits. Raises ConfigError."""
    configurations, settings, seen = plans.get("configurations"), dict[str, Any](), [name]
    while isinstance(configurations, dict) and isinstance(configurations.get(seen[-1]), dict):
        settings = {**configurations[seen[-1]], **settings}
        parent = configurations[seen[-1]].get("inherits_from")
        if parent is None:
            return settings
        if parent in seen:
            raise ConfigError(f'configuration "{name}" inherits from itself')
        seen.append(parent)
    raise ConfigError(f'there is no configuration "{seen[-1]}", which {name} needs')


def _plan(plans: Mapping[str, Any], dataset: Mapping[str, Any], name: str) -> Plan:
    settings = resolve(plans, name)
    channels = len(dataset.get("channel_names", dataset.get("modality")) or ())
    preprocessor = settings.get("preprocessor_name", "DefaultPreprocessor")
    if preprocessor != "DefaultPreprocessor":
        raise ConfigError(f'"preprocessor_name": {preprocessor} is not known here')
    manager = plans.get("label_manager", "LabelManager")
    if manager != "LabelManager":
        raise ConfigError(
            f'"label_manager": {manager} is not known here: it may number labels its own way'
        )
    image_rule, logits_rule = _rule(settings, "data"), _rule(settings, "probabilities")
    _require_way_back(image_rule, logits_rule)
    return Plan(
        patch_size=tuple(int(size) for size in settings["patch_size"]),
        spacing_mm=tuple(float(mm) for mm in settings["spacing"]),
        transpose_forward=_axes(plans["transpose_forward"]),
        transpose_backward=_axes(plans["transpose_backward"]),
        normalizations=_normalizations(plans, settings, channels),
        image_rule=image_rule,
        logits_rule=logits_rule,
        architecture=settings.get("architecture") or _older_architecture(settings),
        heads=_heads(dataset),
        channels=channels,
        previous_stage=settings.get("previous_stage"),
        configuration=settings,
    )


def _axes(values: Sequence[int]) -> tuple[int, int, int]:
    first, second, third = (int(value) for value in values)
    if {first, second, third} != {0, 1, 2}:
        raise ValueError(f"{values} is no order of three axes")
    return first, second, third


def _normalizations(
    plans: Mapping[str, Any], settings: Mapping[str, Any], channels: int
) -> tuple[Normalization, ...]:
    """One per channel. For the CT scheme the statistics must be there."""
    schemes, masks = settings["normalization_schemes"], settings["use_mask_for_norm"]
    statistics = plans.get(_STATISTICS) or plans[_OLDER_STATISTICS]
    found = []
    for number, scheme, mask in zip(range(channels), schemes, masks, strict=True):
        if scheme not in NORMALIZATIONS:
            raise ConfigError(f'"normalization_schemes": {scheme} is not known here')
        values = dict(statistics[str(number)])
        if scheme == "CTNormalization":
            values = {key: float(values[key]) for key in _CT_STATISTICS}
        found.append(Normalization(scheme, bool(mask), values))
    return tuple(found)


_STATISTICS = "foreground_intensity_properties_per_channel"
_OLDER_STATISTICS = "foreground_intensity_properties_by_modality"
_CT_STATISTICS = ("mean", "std", "percentile_00_5", "percentile_99_5")


def _rule(settings: Mapping[str, Any], what: str) -> Rule:
    name = settings[f"resampling_fn_{what}"]
    arguments = settings[f"resampling_fn_{what}_kwargs"]
    if name not in RESAMPLINGS:
        raise ConfigError(f'"resampling_fn_{what}": {name} is not known here')
    linear = {"mode": "linear", "aniso_axis_mode": "nearest-exact"}
    if any(arguments.get(key, value) != value for key, value in linear.items()):
        raise ConfigError(f'"resampling_fn_{what}_kwargs": {arguments} are not known here')
    return Rule(
        function=name,
        order=1 if name == TRILINEAR else int(arguments.get("order", 3)),
        order_z=int(arguments.get("order_z", 0)),
        force_separate_z=arguments.get("force_separate_z", None if name == TRILINEAR else False),
        anisotropy_threshold=float(arguments.get("separate_z_anisotropy_threshold", 3.0)),
    )


def _require_way_back(image_rule: Rule, logits_rule: Rule) -> None:
    """Unchanged images need no way back; others do, or the labels lie on the network's grid."""
    if logits_rule.function == UNCHANGED != image_rule.function:
        raise ConfigError(
            f'"resampling_fn_probabilities": images are resampled and logits are not ({UNCHANGED}'
            "): the labels would lie on another grid than the images; take the plans that the "
            "model was trained with"
        )


def _heads(dataset: Mapping[str, Any]) -> Heads:
    """The label manager's count of heads: regions without background, or labels with it."""
    labels = {name: value for name, value in dataset["labels"].items() if name != "ignore"}
    members = [set(value) if isinstance(value, list) else {int(value)} for value in labels.values()]
    numbers = sorted(set[int]().union(*members))
    foreground = tuple(number for number in numbers if number != 0)
    if not any(len(values) > 1 for values in members):
        return Heads(len(numbers), foreground, None)
    order = tuple(int(number) for number in dataset["regions_class_order"])
    regions = [values for values in members if values != {0}]
    if len(order) != len(regions):
        raise ValueError("regions_class_order does not have one number for each region")
    return Heads(len(regions), foreground, order)


def _older_architecture(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """nnU-Net 2.0 to 2.3 wrote the network's numbers without its name; nnunetv2 knows how."""
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

    architecture: Mapping[str, Any] = ConfigurationManager(dict(settings)).configuration[
        "architecture"
    ]
    return architecture
