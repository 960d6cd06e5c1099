"""The work of a window: the kernels that may use its scratch memory, in a stream that the
user has named or in any.

Private to the process, and asked at the end of each block. A window must end whatever has
become of the stream: if it was closed meanwhile, all work of this process is waited for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from muninn.errors import InvalidArgument, MuninnError
from muninn.system import aside
from muninn.system.forks import Origin
from muninn.system.logs import Log

if TYPE_CHECKING:
    from muninn.devices.port import Device, Stream

_log = Log("muninn.promotion")
_SECONDS = 60.0
_INHERITED = "the window was promoted by the parent process, and its work is waited for there"


class WindowWork:
    """The kernels of one window.

    Parameters
    ----------
    stream
        The stream in which they are, as it was when the window was promoted: its number may
        be another one's later. None: they may be in any.
    gpu
        The GPU of the window.
    """

    def __init__(self, stream: Stream | None, gpu: int) -> None:
        self._stream, self._gpu = stream, gpu
        self._origin = Origin(_INHERITED, "Promote the window in the child")

    @classmethod
    def of(cls, caller: str, stream: Any, gpu: int, device: Device) -> WindowWork:
        """The kernels in the stream that the user has named, or None. Raises what the end
        of the block would find out about the stream, when it is too late for what was
        written.
        """
        if stream is None:
            return cls(None, gpu)
        found = device.asStream(stream, gpu)
        if found.gpu != gpu:
            raise InvalidArgument(
                f"{caller}: the stream is of GPU {found.gpu}, and kernels of GPU {gpu} use the "
                "window",
                "Pass a stream of that GPU, or promote to the other one (`targetGpu`)",
            )
        return cls(found, gpu)

    def isHere(self) -> bool:
        """Whether this process has promoted the window, and is no forked child."""
        return self._origin.isHere()

    def stream(self, device: Device) -> Stream | None:
        """The stream, if the user has named one that is open still."""
        if self._stream is None:
            return None
        try:
            return device.asStream(self._stream, self._gpu)
        except MuninnError as error:
            _log.debug("all work is waited for, since the window's stream is gone: %s", error)
            return None

    def wait(self, device: Device) -> None:
        """Wait for the kernels. Raises the error of their stream."""
        self._origin.require()
        if (stream := self.stream(device)) is not None:
            stream.synchronize()
        else:
            _awaitAll(device)

    def end(self, device: Device) -> Exception | None:
        """Wait until no kernel uses the window any more; returns the error of their stream,
        if it has failed. Raises if a kernel may use the window still.
        """
        failure, stream = None, self.stream(device)
        if stream is not None:
            try:
                stream.synchronize()
                return None
            except Exception as error:
                failure = error
            aside.refuseOwn()
        try:
            _awaitAll(device)
        except TimeoutError as error:
            raise error from failure
        return failure


def _awaitAll(device: Device) -> None:
    if not device.awaitWork(_SECONDS):
        raise TimeoutError(f"work of this process is pending after {_SECONDS:.0f} s")
