"""A damaged block under real processes: each operation of theirs ends."""

from __future__ import annotations

import os
import secrets
import struct
from typing import Any

from stateful.puppets import Puppet

from fuzz.shared import PatchTarget, patches
from muninn import errors
from muninn.errors import MuninnError
from support import removeDomain


class DomainTarget(PatchTarget):
    """A block with wrong words, in a domain of real processes: each operation ends,
    either well or by an error with a code.
    """

    name, share = "domain", 0.05
    _environment = {
        "MUNINN_TAKEOVER_MS": "30",
        "MUNINN_REQUEST_TIMEOUT_MS": "500",
        "MUNINN_MAX_MEMBERS": "8",
        "MUNINN_MAX_BUFFERS": "256",
        "MUNINN_MAX_LEASES": "64",
    }

    def seeds(self) -> list[bytes]:
        return super().seeds()[:4]  # few, so that most inputs differ from run to run

    def run(self, raw: bytes) -> None:
        domain = f"test-{secrets.token_hex(6)}"
        first = Puppet("first", MUNINN_DOMAIN=domain, **self._environment)
        puppets = [first]
        try:
            for key, name in enumerate("abcd"):
                while (outcome := first.do("share", key, name, 600, "<i8", key, {})).error:
                    assert outcome.error == "BrokerUnavailable", (
                        outcome
                        # On a busy machine the time limit for the damaged domain is short
                        # for a sound one.
                    )
            with open(f"/dev/shm/muninn-{os.getuid()}-{domain}", "r+b") as block:
                size = os.fstat(block.fileno()).st_size
                for offset, bits in patches(raw, size):
                    (word,) = struct.unpack("<Q", os.pread(block.fileno(), 8, offset))
                    os.pwrite(block.fileno(), struct.pack("<Q", word ^ bits), offset)
            puppets.append(Puppet("second", MUNINN_DOMAIN=domain, **self._environment))
            for puppet in reversed(puppets):
                for op, *arguments in _OPERATIONS:
                    outcome = puppet.do(op, *arguments)
                    isTyped = issubclass(getattr(errors, outcome.error, Exception), MuninnError)
                    assert outcome.error in ("", "TimeoutError") or isTyped, (
                        f"{puppet}.{op}{arguments} came to {outcome}"
                    )
        finally:
            for puppet in puppets:
                puppet.kill()
            removeDomain(domain)


_OPERATIONS: tuple[tuple[Any, ...], ...] = (
    ("view",),
    ("open", 10, "a", "readWrite"),
    ("probe",),
    ("openRead", "b"),
    ("openRead", "c"),
    ("writeNamed", "d"),
    ("acquire", "l"),
    ("freeName", "a"),
)
TARGETS = [DomainTarget]
