"""Heirs: which buffer may take the name of another as its new version.

The publisher asks before it makes anything, and the broker asks again at the commit,
since another process may have freed the name and used it anew meanwhile.
"""

from __future__ import annotations

from muninn.control import layout
from muninn.control.descriptions import RowDescription
from muninn.errors import BufferMismatch, PermissionDenied

_KINDS = {layout.ROW_KIND_ARRAY: "an array", layout.ROW_KIND_BUNDLE: "a bundle of arrays"}
_OTHER = "of another kind"


def requireHeir(old: RowDescription, kind: int, tenant: str) -> None:
    """Raise `BufferMismatch` or `PermissionDenied` if a buffer of this kind and tenant
    may not take the name of the described one.
    """
    if kind != old.kind:
        raise BufferMismatch(
            f"{old.name!r} is {_KINDS.get(old.kind, _OTHER)}, and the new version is "
            f"{_KINDS.get(kind, _OTHER)}",
            "Publish what the name has, use another name, or free the name first",
        )
    if tenant != old.tenant:
        raise PermissionDenied(
            f"{old.name!r} belongs to tenant {old.tenant!r}, and not to {tenant!r}",
            f"Publish with tenant={old.tenant!r}, or free the name first",
        )
