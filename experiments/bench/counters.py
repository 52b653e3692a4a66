"""What a counter of energy is: joules that only grow, or one line that says why there are none."""

import abc
import contextlib
import threading


class Unreadable(Exception):
    """A counter cannot be read; the message is the reason, on one line, with the cure if any."""


class Counter(abc.ABC):
    """Joules of some devices since it was opened.

    One failure ends it: what was used while it could not be read is unknown, and a later reading
    would be taken for the whole.

    Attributes:
      source: how the joules are known, as records name it.
      counts: what is added up, in words.
      measured: False: they follow from the time alone.
    """

    source: str
    counts: str
    measured: bool = True

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failure: str | None = None
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def joules(self) -> float:
        """Return the joules since it was opened; never fewer than before.

        Raises:
          Unreadable: it cannot be read, or could not at some time since it was opened.
        """
        with self._lock:
            if self._failure is not None:
                raise Unreadable(self._failure)
            try:
                return self._advance()
            except Unreadable as error:
                self._failure = str(error)
                raise

    @abc.abstractmethod
    def _advance(self) -> float:
        """Read the device, and return the joules since the counter was opened.

        Raises:
          Unreadable: it cannot be read.
        """

    def _poll(self, seconds: float) -> None:
        """Read it every so many seconds from now on, until it is closed."""

        def work() -> None:
            with contextlib.suppress(Unreadable):  # the next reading says it again
                while not self._closed.wait(seconds):
                    self.joules()

        self._thread = threading.Thread(target=work, name="energy", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop what reads it."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()
