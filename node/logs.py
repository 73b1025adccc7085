"""One log line per event, to standard error; never a patient's name."""

import contextlib
import io
import logging
import sys
import warnings
from typing import Literal, TextIO, cast

import structlog


class _StandardError(io.TextIOBase):
    """Standard error, whose own faults (a full disk behind it) must not stop the work."""

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            return sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()


def configure_logging(
    form: Literal["console", "json"], level: Literal["debug", "info", "warning", "error"]
) -> None:
    """Sets up structlog for this process."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _StandardError())),
        cache_logger_on_first_use=True,
    )
    # pydicom remarks on odd values in every header, raw between our lines.
    warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")
    # pynetdicom tells each refused Association on standard error; we tell it ourselves.
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
