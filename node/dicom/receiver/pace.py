"""How far a walk over a data set may go, and how it leaves the others their time.

All Associations share one interpreter. A walk of more steps than nearly all have goes on in
stretches, one walk at a time and one stretch after the other, with a rest behind each: walks that
never end keep a long one from its end only in proportion to its own length.
"""

import threading
import time
from types import TracebackType
from typing import Final, Self

# Elements, items and fragments. An enhanced multi-frame object of 10,000 frames has up to 300 of
# them for each where no sequence states its length; with lengths, sequences are one step each.
MOST_STEPS: Final = 3_000_000
_SHORT_WALK: Final = 20_000
_STRETCH: Final = 1_000  # steps: less than 1 ms
_REST_SECONDS: Final = 0.001
_turn: Final = threading.Lock()


class TooLong(Exception):
    """More steps than any data set that we know of; the message says how many."""


class Pace:
    """Of one walk. left: steps until `rest` is due; the walk itself counts them down."""

    def __init__(self) -> None:
        self.left = _SHORT_WALK
        self._may_go = MOST_STEPS - _SHORT_WALK
        self._has_turn = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end_turn()

    def rest(self, offset: int) -> None:
        """Rests, waits for a turn, and lets the walk go on. Raises TooLong."""
        if self._may_go <= 0:
            raise TooLong(f"more than {MOST_STEPS} elements and items up to byte {offset}")
        if self._has_turn:
            time.sleep(_REST_SECONDS)  # before another's turn, or there would be no rest at all
            self._end_turn()
        _turn.acquire()  # for as long as the stretches of those that wait, too
        self._has_turn = True
        self._may_go -= _STRETCH
        self.left = _STRETCH - 1

    def _end_turn(self) -> None:
        if self._has_turn:
            self._has_turn = False
            _turn.release()
