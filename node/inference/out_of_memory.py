"""How a lack of memory is told from other errors. Loads neither torch nor nnunetv2."""

_SAID = (
    "out of memory",
    "allocate memory",
    "ALLOC_FAILED",
    "bad_alloc",
    "unable to find an engine",  # cuDNN, when none of its algorithms found room
    "Unable to find a valid cuDNN algorithm",
)


def is_out_of_memory(error: Exception) -> bool:
    """Whether the machine's memory or the device's was too small.

    torch's own OutOfMemoryError is a RuntimeError; cuDNN and OpenVINO raise a plain one.
    """
    said = isinstance(error, RuntimeError) and any(words in str(error) for words in _SAID)
    return said or isinstance(error, MemoryError)
