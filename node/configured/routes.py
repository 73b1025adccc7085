"""Routes, and how long things wait and are kept."""

from collections.abc import Mapping, Sequence

from node.core.config import Config
from node.core.model import Model
from node.core.sections import RouteSection
from node.dicom.closing.times import Times
from node.dicom.routing import Route, with_models
from node.store.retention import Periods


def routes_of(config: Config, models: Mapping[str, Model]) -> Sequence[Route]:
    """The Routes of the configuration. Raises ConfigError."""
    return with_models([route_of(section) for section in config.routes], models)


def route_of(section: RouteSection) -> Route:
    """One Route as it is written, not held against its Model yet."""
    return Route(**dict(section))


def times_of(config: Config) -> Times:
    """How long Series wait that no Route sets times for."""
    section = config.closing
    return Times(
        section.settle_seconds,
        section.quiet_seconds,
        section.last_limit_seconds,
        answer_seconds=section.answer_seconds,
    )


def periods_of(config: Config) -> Periods:
    """For how long files are kept."""
    return Periods(**dict(config.retention))
