"""Ids: buffers by the `bufferId` in a path.

An id is a row and an incarnation, so it is never another buffer's. A name may be: a
newer version takes it, or a process frees it and another one creates it anew. So what an
id says is looked up and opened by the id alone.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from muninn.api.buffer import MuninnBuffer
from muninn.api.listing import describedById
from muninn.errors import BufferFreed, BufferMismatch, BufferNotFound
from muninn.session.membership import current
from muninn.terms import asOpenAccess

if TYPE_CHECKING:
    from muninn.terms import OpenAccessWord

#: One buffer has one id: no digits before the first that counts.
PATTERN = r"(0|[1-9][0-9]{0,6})\.(0|[1-9][0-9]{0,7})"
_ID = re.compile(PATTERN, re.ASCII)


class BufferId(NamedTuple):
    """The row and the incarnation of a buffer."""

    row: int
    incarnation: int

    def __str__(self) -> str:
        return f"{self.row}.{self.incarnation}"

    @classmethod
    def of(cls, text: str) -> BufferId | None:
        """None if it is no id."""
        match = _ID.fullmatch(text)
        return None if match is None else cls(int(match[1]), int(match[2]))

    def described(self) -> dict[str, Any]:
        """Its description. Raises `BufferNotFound`."""
        found = describedById(*self)
        if found is None:
            raise BufferNotFound(f"there is no buffer '{self}'", "GET /buffers lists them")
        return found

    def opened(self, kinds: tuple[str, ...], access: OpenAccessWord) -> MuninnBuffer:
        """The buffer, if it is one of these `kinds` of a description.

        Raises
        ------
        BufferNotFound
        BufferFreed
            It ends, or a newer version has its name.
        BufferMismatch
            It is of another kind.
        PermissionDenied
        """
        described = self.described()
        if described["kind"] not in kinds:
            raise BufferMismatch(
                f"{self} is a {described['kind']}", f"Use the id of {' or '.join(kinds)}"
            )
        opened = current().openBuffers.hold(*self)
        if opened is None:
            said = described["state"]
            why = "a newer version has its name" if said == "replaced" else "it was freed"
            raise BufferFreed(
                f"the buffer '{self}' can not be opened: {why}", "GET /buffers lists what is there"
            )
        return MuninnBuffer._of(opened, asOpenAccess(access))
