"""Streams of the port: queues of work on one GPU."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

from muninn.devices.port.closable import Closable


class Stream(Closable):
    """A queue of work on one GPU. What was submitted before it was closed is still
    done; anything else is refused from then on.

    Attributes
    ----------
    gpu
        Where its work runs.
    handle
        The integer that `asStream` takes back for this stream; 0 for the default
        stream.
    isSynchronous
        Whether what it is given is done, and what it waits for is waited for, before
        the call returns.
    """

    gpu: int
    handle: int
    isSynchronous = False

    @abstractmethod
    def submit(self, work: Callable[[], object]) -> None:
        """Run `work` on the host after everything before it. It must not call the port;
        what it raises becomes the stream's error.
        """

    @abstractmethod
    def synchronize(self, timeout: float | None = None) -> None:
        """Wait for everything submitted before this call; raises the stream's error, or
        `TimeoutError` after `timeout` seconds.
        """

    @abstractmethod
    def query(self) -> bool:
        """Whether everything submitted has been done; raises the stream's error."""

    @abstractmethod
    def check(self) -> None:
        """Raise what the host's part of the stream has failed with, without asking for
        its work.
        """

    def errorCursor(self) -> int:
        """For `errorSince`: how many errors were told so far and forgotten, of a stream
        that goes on behind them.
        """
        return 0

    def errorSince(self, errorCursor: int) -> BaseException | None:
        """The last error that was told and forgotten since `errorCursor`; None: there
        was none.
        """
        return None
