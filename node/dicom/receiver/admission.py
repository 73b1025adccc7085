"""Who gets an Association: what is too much for now is rejected before it is negotiated."""

from typing import TYPE_CHECKING, Final, cast

from pynetdicom.acse import ACSE

if TYPE_CHECKING:
    from node.dicom.receiver.association import ReceivingAssociation

_LOCAL_LIMIT_EXCEEDED: Final = (0x02, 0x03, 0x02)  # transient, presentation: PS3.8 9.3.4


class LimitedACSE(ACSE):
    """Rejects what is too much for now; the negotiation stays pynetdicom's."""

    def _negotiate_as_acceptor(self) -> None:
        association = cast("ReceivingAssociation", self.assoc)
        if (reason := association.enter()) is None:
            super()._negotiate_as_acceptor()
            return
        association.tell_rejection(reason)
        self.send_reject(*_LOCAL_LIMIT_EXCEEDED)
        association.is_rejected = True
        association.kill()

    def send_accept(self) -> None:
        """The peer may send as soon as it has our answer: what that needs comes first."""
        cast("ReceivingAssociation", self.assoc).begin()
        super().send_accept()
