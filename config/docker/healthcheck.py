"""The image's HEALTHCHECK: a C-ECHO to the node that runs here, with the configuration it has.

Exit status 0 when it answers, 1 with a sentence when it does not.
"""

import sys
from pathlib import Path

from node.core.config import Config, load
from node.core.errors import SegnodeError
from node.core.names import AETitle
from node.core.sections import PeerSection
from node.dicom.scu.peer import Peer
from node.dicom.scu.storage import echo
from node.dicom.tls import Tls

EVERY_ADDRESS = ("0.0.0.0", "::")


def this_node(config: Config) -> Peer:
    dicom = config.dicom
    host = "127.0.0.1" if dicom.host in EVERY_ADDRESS else dicom.host
    title = AETitle(dicom.ae_title)
    ours = dicom.tls
    known = welcome(config)
    only_secure = bool(known) and all(one.tls for one in known)
    if dicom.port and not (ours.listens and only_secure):
        return Peer("this node", title, host, dicom.port, timeout_seconds=5.0)
    secure = Tls(ours.ca, ours.certificate, ours.key, verify_host_name=False)
    return Peer("this node", title, host, ours.port, timeout_seconds=5.0, tls=secure)


def welcome(config: Config) -> list[PeerSection]:
    """Peers that may associate, those first that may come over the plain port."""
    accepted = config.peers if config.dicom.accept_from is None else config.dicom.accept_from
    named = [config.peers[name] for name in accepted if name in config.peers]
    return sorted((one for one in named if one.ae_title), key=lambda one: one.tls)


def welcome_title(config: Config) -> AETitle:
    """The AE Title of a peer that may associate: the node turns its own away like any stranger."""
    titles = [one.ae_title for one in welcome(config)]
    return AETitle(next(filter(None, titles), config.dicom.ae_title))


def main() -> None:
    try:
        config = load(Path(sys.argv[1]))
        echo(this_node(config), welcome_title(config))
    except SegnodeError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
