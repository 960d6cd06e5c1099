"""Operations: every operation of the HTTP interface, as a table."""

from __future__ import annotations

from typing import NamedTuple

from muninn.plans.fields import Field
from muninn.service.web import bodies, schemas
from muninn.service.web.schemas import Schema


class Operation(NamedTuple):
    """One operation.

    Attributes
    ----------
    handler
        The method of `Handlers` that does it.
    status
        Of an answer that is no error.
    body
        What the request's body may be; None: it has none.
    answer
        The schema of the answer's body.
    waits
        Whether it waits for as long as its client says.
    isHealth
        Whether its answer says how it goes: if that is not ``ok``, the status is 503.
    """

    method: str
    path: str
    handler: str
    summary: str
    status: int
    answer: Schema
    body: Field | None = None
    waits: bool = False
    isHealth: bool = False

    @property
    def hasId(self) -> bool:
        return "{id}" in self.path


OPERATIONS = (
    Operation("GET", "/buffers", "listBuffers", "List the buffers.", 200, schemas.BUFFERS),
    Operation(
        "POST",
        "/buffers",
        "createBuffer",
        "Allocate a buffer. Memory of a GPU is held until it is deleted.",
        201,
        schemas.BUFFER,
        bodies.CREATE,
    ),
    Operation("GET", "/buffers/{id}", "describeBuffer", "Describe a buffer.", 200, schemas.BUFFER),
    Operation(
        "POST",
        "/buffers/{id}/open",
        "openBuffer",
        "Get a handle by which a process opens the buffer.",
        200,
        schemas.OPENED,
        bodies.OPEN,
    ),
    Operation(
        "POST",
        "/buffers/{id}/promote",
        "promoteBuffer",
        "Promote a window to a GPU, and hold it for a while.",
        201,
        schemas.PROMOTED,
        bodies.PROMOTE,
        waits=True,
    ),
    Operation(
        "DELETE",
        "/buffers/{id}",
        "deleteBuffer",
        "Free the name now, and the memory with its last holder.",
        200,
        schemas.DELETED,
    ),
    Operation(
        "GET",
        "/topology",
        "topology",
        "The GPUs and their links.",
        200,
        schemas.ANYTHING,
    ),
    Operation("GET", "/state", "state", "What the page shows.", 200, schemas.ANYTHING),
    Operation(
        "GET",
        "/healthz",
        "health",
        "Whether the domain has a broker and takes new buffers.",
        200,
        schemas.HEALTH,
        isHealth=True,
    ),
)
