"""The descriptor store: descriptors of memory that has no name in `/dev/shm`.

fastMode memory lives as long as a process has a descriptor of it. The processes that
have it open do, and so does the broker. Therefore the memory outlives the process that
allocated it, and another process can get a descriptor from the broker, through the
descriptor server once that is open. The store is private memory of the broker. After
the broker's death the members bring their descriptors to the successor with their first
message.
"""

from __future__ import annotations

import contextlib
import os

from muninn.control import layout
from muninn.control.descriptions import RowDescription
from muninn.control.rowreader import RowReader
from muninn.errors import ProtocolViolation
from muninn.system import ownership
from muninn.system.descriptors import Descriptor, own
from muninn.system.logs import Log
from muninn.terms import Mode
from muninn.wire.descriptorserver import DescriptorServer

_log = Log("muninn.broker")


class DescriptorStore:
    """Descriptors by (row, incarnation)."""

    def __init__(self) -> None:
        self._descriptors: dict[tuple[int, int], Descriptor] = {}
        self._descriptorServer: DescriptorServer | None = None

    def open(self, path: str, uid: int | None = None) -> None:
        """Hand the descriptors out at a socket of this path. If it can not be opened,
        only requests hand them out.
        """
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # left by a broker of a block that was withdrawn
        try:
            self._descriptorServer = DescriptorServer(path)
            ownership.requireMade(path, uid, 0o600)
        except FileNotFoundError as error:
            # A successor removed it while this process stood still between two steps.
            _log.info("the descriptor server was removed: %s", error)
            return
        except OSError as error:
            _log.warning("the descriptor server can not be opened: %s", error)
            return
        for (row, incarnation), descriptor in self._descriptors.items():
            self._descriptorServer.put(row, incarnation, descriptor.number)

    def put(self, row: int, incarnation: int, descriptor: int | Descriptor) -> None:
        """Keep a descriptor, which the store owns from now on. A second descriptor of
        the same memory is closed.
        """
        brought, kept = own(descriptor), self._descriptors.get((row, incarnation))
        if kept is not None and kept.isOurs():
            if kept.number != brought.number:
                brought.close()
            elif kept is not brought:
                brought.release()  # one number has one owner
            return
        self._descriptors[row, incarnation] = brought
        if self._descriptorServer is not None:
            self._descriptorServer.put(row, incarnation, brought)

    def keep(
        self, rows: RowReader, pairs: list[tuple[int, int]], descriptors: list[Descriptor]
    ) -> None:
        """Take one descriptor from the front of the list for each of these rows. A
        descriptor whose row is gone is closed.
        """
        for row, incarnation in pairs:
            descriptor = descriptors.pop(0)
            state = rows.state(row) if 0 <= row < rows.count() else None
            if state and state.incarnation == incarnation and state.state != layout.ROW_FREE:
                self.put(row, incarnation, descriptor)
            else:
                own(descriptor).close()

    def get(self, row: int, incarnation: int) -> int | None:
        """The descriptor; None when it is not here, or the program has closed it."""
        kept = self._descriptors.get((row, incarnation))
        return kept.number if kept is not None and kept.isOurs() else None

    def lacksMemory(self, rows: RowReader, row: int) -> bool:
        """Whether the row is LIVE and its memory has no name, and its descriptor is not
        here.
        """
        state = rows.state(row)
        isNameless = (
            state.state == layout.ROW_LIVE and rows.isFastMode(row) and rows.needsDescriptor(row)
        )
        return isNameless and self.get(row, state.incarnation) is None

    def requireOf(self, row: int, incarnation: int, description: RowDescription) -> None:
        """Raise `ProtocolViolation` if the row's memory has no name, and its descriptor
        is not here.
        """
        if (
            description.mode is Mode.FAST
            and description.transport != "cudaIpc"
            and self.get(row, incarnation) is None
        ):
            raise ProtocolViolation(
                f"the fastMode buffer {description.name!r} came without its descriptor"
            )

    def drop(self, row: int, incarnation: int) -> None:
        kept = self._descriptors.pop((row, incarnation), None)
        if kept is not None:
            self._withdraw((row, incarnation))
            kept.close()

    def takeAll(self) -> list[tuple[tuple[int, int], Descriptor]]:
        """Empty the store; the caller owns the descriptors from now on."""
        taken = [(pair, kept) for pair, kept in self._descriptors.items() if kept.isOurs()]
        for pair in self._descriptors:
            self._withdraw(pair)
        self._descriptors.clear()
        return taken

    def close(self) -> None:
        if self._descriptorServer is not None:
            self._descriptorServer.close()
        for kept in self._descriptors.values():
            kept.close()
        self._descriptors.clear()

    def closeInChild(self) -> None:
        """In a forked child: close the copies of the descriptors. The descriptor
        server's thread was not forked, and keeps its memory.
        """
        for kept in self._descriptors.values():
            kept.close()
        self._descriptors.clear()

    def _withdraw(self, pair: tuple[int, int]) -> None:
        if self._descriptorServer is not None:
            self._descriptorServer.take(*pair)

    def __len__(self) -> int:
        return len(self._descriptors)
