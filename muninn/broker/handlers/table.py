"""The dispatch table of the broker: which handler serves which operation. The fields of
each are in `wire/requests.py`.
"""

from __future__ import annotations

from muninn.broker.handlers import buffers, domain, members, names
from muninn.broker.handlers.context import Handler

HANDLERS: dict[str, Handler] = {
    "hello": members.hello,
    "bring": members.bring,
    "create": buffers.create,
    "commit": buffers.commit,
    "abandon": buffers.abandon,
    "find": names.find,
    "fetch": buffers.fetch,
    "free": buffers.free,
    "tryReclaim": buffers.tryReclaim,
    "recall": buffers.recall,
    "evict": domain.evict,
    "drain": domain.drain,
    "yield": members.takeOverPolitely,
    "leave": members.leave,
    "ping": domain.ping,
}
