"""The device of this process: chosen once, at its first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muninn.arguments import named
from muninn.control import layout
from muninn.session.membership import current
from muninn.system.forks import Guard
from muninn.system.oserrors import typedErrors
from muninn.system.threads import refuseImports
from muninn.terms import Mode

if TYPE_CHECKING:
    from muninn.devices.port import Device, Stream
    from muninn.session.membership import Membership

_lock = Guard(isWhole=True)  # the back-end is imported inside


def deviceOf(membership: Membership) -> Device:
    """The back-end that the settings ask for. Its memory is counted by the rows of the whole domain."""
    with _lock.lock:
        if membership.device is None:
            refuseImports("this process has not used a GPU yet")
            with typedErrors("the device back-end"):
                from muninn.devices.choose import chooseDevice

                chosen = chooseDevice(membership.settings.devices, lambda gpu: usedBytes(membership, gpu))
            if membership.device is None:  # nor was it chosen by what came between
                membership.device = chosen
        return membership.device


def usedBytes(membership: Membership, gpu: int) -> int:
    """Bytes that the domain holds on a GPU: a sum over the rows."""
    rows = membership.rows
    held = (layout.ROW_LIVE, layout.ROW_PROBING, layout.ROW_DYING)
    described = (rows.description(row) for row, state in rows.notFree() if state.state in held)
    return sum(each.segmentBytes for each in described if each.mode is Mode.FAST and each.gpu == gpu)


@named
def createStream(gpu: int = 0) -> Stream:
    """A new stream of a GPU, for `signal` and `wait`: a queue whose work is done in order, beside the caller.

    Raises
    ------
    DeviceUnavailable
        There is no such GPU, not even a pretended one.
    """
    return deviceOf(current()).createStream(gpu)
