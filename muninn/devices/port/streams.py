"""Streams of the port: queues of work on one GPU."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

from muninn.system import markup
from muninn.system.closable import Closable


class Mark(Closable):
    """A place in a stream. It is reached once everything is done that the stream was
    given before it, also if that failed. Closing it forgets the place, and changes no
    wait that has begun.
    """

    @abstractmethod
    def wait(self, isNear: bool = False) -> None:
        """Wait until it is reached. Raises the error of a GPU whose work failed.

        Parameters
        ----------
        isNear
            It will be reached soon, so the wait does not begin with a sleep: to wake up
            takes longer than a small copy.
        """


class Stream(Closable):
    """A queue of work on one GPU. Work that was submitted before it was closed is still
    done; all other calls are refused from then on.

    Attributes
    ----------
    gpu
        The GPU on which its work runs.
    handle
        The integer that `asStream` takes back for this stream; 0 for the default
        stream.
    isSynchronous
        Whether each call returns only after its work, or its wait, is done.
    """

    gpu: int
    handle: int
    isSynchronous = False

    @abstractmethod
    def submit(self, work: Callable[[], object]) -> None:
        """Run `work` on the host after everything before it. `work` must not call the
        port; an exception that it raises becomes the stream's error.
        """

    @abstractmethod
    def mark(self) -> Mark:
        """A mark of this place."""

    @abstractmethod
    def follow(self, mark: Mark) -> None:
        """Let the later work of the stream begin after the mark of another stream of
        this process is reached. The two may be on two GPUs.
        """

    @abstractmethod
    def synchronize(self, timeout: float | None = None) -> None:
        """Wait for everything submitted before this call; raises the stream's error, or
        `TimeoutError` after `timeout` seconds.
        """

    @abstractmethod
    def settle(self) -> None:
        """Wait until nothing is under way that was submitted before this call, whatever
        came of it, also if the stream was closed. Raises nothing but what interrupts it;
        in a forked child it returns at once, since the work is the parent's.
        """

    @abstractmethod
    def query(self) -> bool:
        """Whether everything submitted has been done; raises the stream's error."""

    @abstractmethod
    def check(self) -> None:
        """Raise the error of the host's part of the stream, if there is one, without
        asking for its work.
        """

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of GPU {self.gpu}, handle {self.handle:#x}>"

    def _repr_html_(self) -> str:
        # Not whether its work is done: to ask would take an error from the program.
        facts = {"on": f"GPU {self.gpu}", "handle": f"{self.handle:#x}"}
        return markup.card("Stream", facts)

    def errorCursor(self) -> int:
        """For `errorSince`: how many errors the stream has raised and forgotten so far."""
        return 0

    def errorSince(self, errorCursor: int) -> BaseException | None:
        """The last error that the stream has raised and forgotten since `errorCursor`;
        None: there was none.
        """
        return None
