"""Work that is done beside a run, in a thread of its own: a store that hangs, hangs there."""

from __future__ import annotations

import threading
from collections.abc import Callable

FIRST_PAUSE = 5.0  # seconds after a failure; twice as long after each further one
LONGEST_PAUSE = 600.0


class Attendant:
    """Calls `work` once at the start and again whenever it is asked to; after a failure it pauses, then tries again.

    Only what `work` itself raises counts as its failure: an exception that a signal handler raises goes to the main
    thread, where it belongs.

    Args:
        work: is told whether this is the last call; may take as long as it likes, and be called for nothing.
        complain: is told what `work` raised.
    """

    def __init__(self, work: Callable[[bool], None], complain: Callable[[Exception], None]):
        self.work = work
        self.complain = complain
        self.done = False  # whether the last call, after everything else, succeeded
        self._asked, self._ending, self._tried = threading.Event(), threading.Event(), threading.Event()
        self._asked.set()
        self._thread = threading.Thread(target=self._attend, name="tracker", daemon=True)
        self._thread.start()

    def wait_for_first(self, seconds: float) -> None:
        """Until `work` was called once, but no longer than this."""
        self._tried.wait(seconds)

    def ask(self) -> None:
        """Returns at once. Several requests during one call of `work` become one more call."""
        self._asked.set()

    def end(self, seconds: float) -> bool:
        """One last call of `work`, pause or not; whether it succeeded within this time."""
        self._ending.set()
        self._asked.set()
        self._thread.join(seconds)
        return self.done

    def _attend(self) -> None:
        pause = FIRST_PAUSE
        while True:
            self._asked.wait()
            self._asked.clear()
            last = self._ending.is_set()
            try:
                self.work(last)
            except Exception as error:
                self.complain(error)
                self._tried.set()
                self._ending.wait(0 if last else pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                self._asked.set()
            else:
                self._tried.set()
                self.done, pause = last, FIRST_PAUSE
            if last:
                return
