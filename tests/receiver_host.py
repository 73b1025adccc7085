"""A stand-in for the node's process: a receiver and nothing else, for tests that kill it.

`python -m tests.receiver_host DATA_DIR` prints its port and its receiver's process id, and stays.
"""

import sys
import time
from pathlib import Path

from node.dicom.inbox import Inbox
from node.dicom.receiver.supervisor import Receiver
from tests.receiving import settings


def main(data_dir: Path, port: int) -> None:
    """Serves until it is killed."""
    Inbox(data_dir).clear_halves()
    receiver = Receiver(settings(data_dir))
    listening = receiver.start("127.0.0.1", port)
    print("listening", listening, receiver.pid, flush=True)
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
