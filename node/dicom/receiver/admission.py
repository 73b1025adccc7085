"""Who gets an Association: what is too much for now is rejected before it is negotiated."""

from typing import TYPE_CHECKING, Final, cast

from pynetdicom.acse import ACSE

if TYPE_CHECKING:
    from node.dicom.receiver.association import ReceivingAssociation

# PS3.8 9.3.4: result, source, reason
_LOCAL_LIMIT_EXCEEDED: Final = (0x02, 0x03, 0x02)  # transient, presentation
_NO_REASON_GIVEN: Final = (0x01, 0x01, 0x01)  # permanent, service user


class LimitedACSE(ACSE):
    """Rejects what is too much for now; the negotiation stays pynetdicom's."""

    def _negotiate_as_acceptor(self) -> None:
        association = cast("ReceivingAssociation", self.assoc)
        if (reason := association.enter()) is not None:
            association.tell_rejection(reason)
            self._reject(*_LOCAL_LIMIT_EXCEEDED)
        elif association.must_be_secure:
            association.tell_insecure()
            self._reject(*_NO_REASON_GIVEN)
        else:
            super()._negotiate_as_acceptor()

    def _reject(self, result: int, source: int, reason: int) -> None:
        self.send_reject(result, source, reason)
        self.assoc.is_rejected = True
        self.assoc.kill()

    def send_accept(self) -> None:
        """The peer may send as soon as it has our answer: what that needs comes first."""
        cast("ReceivingAssociation", self.assoc).begin()
        super().send_accept()
