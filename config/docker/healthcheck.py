"""The image's HEALTHCHECK: a C-ECHO to the node that runs here, with the configuration it has.

Exit status 0 when it answers, 1 with a sentence when it does not.
"""

import sys
from pathlib import Path

from node.core.config import Config, load
from node.core.errors import SegnodeError
from node.core.names import AETitle
from node.dicom.scu.peer import Peer
from node.dicom.scu.storage import echo

EVERY_ADDRESS = ("0.0.0.0", "::")


def this_node(config: Config) -> Peer:
    dicom = config.dicom
    host = "127.0.0.1" if dicom.host in EVERY_ADDRESS else dicom.host
    return Peer("this node", AETitle(dicom.ae_title), host, dicom.port, timeout_seconds=5.0)


def welcome_title(config: Config) -> AETitle:
    """The AE Title of a peer that may associate: the node turns its own away like any stranger."""
    accepted = config.peers if config.dicom.accept_from is None else config.dicom.accept_from
    titles = [config.peers[name].ae_title for name in accepted if name in config.peers]
    return AETitle(next(filter(None, titles), config.dicom.ae_title))


def main() -> None:
    try:
        config = load(Path(sys.argv[1]))
        echo(this_node(config), welcome_title(config))
    except SegnodeError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
