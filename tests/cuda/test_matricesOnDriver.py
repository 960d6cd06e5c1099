"""Matrices of links on a driver: the rules of `tests/test_matrices.py`, where the links are
those of the stand-in.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from test_matrices import *

from support import Actor, eventually

pytestmark = pytest.mark.usefixtures("standin")


@pytest.fixture
def backend() -> str:
    return "cuda"


def test_aSlowLinkIsMeasuredToBeSo(actor: Callable[..., Actor]) -> None:
    """By real figures, and not by made-up ones. The way back is good."""
    there = actor(
        "from muninn.devices.topology import probing\n"
        "from muninn.transfer.engines import engineOf\n"
        "probing._FIRST_BYTES, probing._MEASURED_BYTES = 1 << 18, 4 << 20\n"
        "a = np.arange(9999); b = muninn.share(a, 'a', mode='fastMode')\n"
        "def copied():\n"
        "    c = b.copyTo(2)\n"
        "    return c.route, c.transfer.reason, bool((c.read() == a).all())\n"
        "def measured():\n"
        "    links = engineOf(muninn.session.membership.current().openBuffers.context).links\n"
        "    return links.known(0, 2).stagedBytesPerSecond",
        STANDIN_DEVICES="3",
        STANDIN_LINKS="0>2=slow:4M",
    )
    assert there.do("copied()") == ["p2p", "peerAccess", True]
    eventually(lambda: there.do("measured()"), "the link is measured")
    assert there.do("copied()") == ["staged", "peerSlower", True]
