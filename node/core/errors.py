"""The errors of this product. The class says who acts next.

SegnodeError
├── SeriesRejected   nobody: the input cannot be segmented; the Job ends REJECTED
├── Temporary        time: the step is tried again with backoff
├── Fatal            a person: the Job ends FAILED
├── ConfigError      the administrator: the node refuses to start
└── StaleState       nobody: another actor changed the Job first

Anything else that is raised is a bug of ours: the Job ends FAILED with its traceback.
"""


class SegnodeError(Exception):
    """Base of all errors raised on purpose. The message says what, which, and what to do."""


class SeriesRejected(SegnodeError):
    """The Series cannot be segmented; the message names the slice or the numbers."""


class Temporary(SegnodeError):
    """It may work later by itself: a peer that is down, a worker that died."""


class Fatal(SegnodeError):
    """It will not work until a person changes something."""


class ConfigError(SegnodeError):
    """The configuration or the machine does not allow a start; names file and key."""


class StaleState(SegnodeError):
    """The Job is no longer in the state that the change expected."""
