"""The way of scratch memory back into the arena, when no window uses it any more."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from muninn.session.windownames import WindowPlace

if TYPE_CHECKING:
    from muninn.api.scratchroom import Room
    from muninn.session.openbuffer import OpenBuffer
    from muninn.transfer.arena import Arena, Content


class GivingBack(NamedTuple):
    """How scratch memory goes back. It keeps no buffer open."""

    arena: Arena
    room: Room
    #: None if it can not be told later.
    content: Content | None
    isShared: bool
    gpu: int

    def giveBack(self, memory: OpenBuffer, generation: int | None) -> None:
        """No kernel uses the memory any more, in which the window is whole, and of that
        generation, unless it is None.
        """
        content = None
        if generation is not None and self.content is not None:
            content = self.content._replace(generation=generation)
        if not self.isShared:
            self.arena.giveBack(self.gpu, memory, content, self.room)
            return
        place = WindowPlace.of(memory.description.name)
        # Of a larger window another content would have to be told.
        if content is not None and place is not None and place.window == content.window:
            self.arena.keepShared(content, self.room, memory)
