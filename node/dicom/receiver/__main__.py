"""The entry of the receiving process: it dies with the node before it has imported anything."""

import ctypes
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def die_with_the_node() -> None:
    """Linux ends us with the thread that started us; the node's signals are not for us.

    A node that died before this has closed our standard input, whose end stops us, too.
    """
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    die_with_the_node()
    from node.dicom.receiver.process import main

    main(sys.argv[1:])
