"""Muninn: memory that processes and GPUs of one host share.

    buffer = muninn.share(array, name="weights")      # one script
    buffer = muninn.open("weights"); buffer.array      # another, unrelated one: the same bytes

The map, outside in: `cli` (python -m muninn) → `api` (what is exported here) → `broker`
(policy: what the one broker of a domain decides) → `control` (shared memory and
liveness) → `cshim` (C primitives). `devices` is the port to GPUs, with the host
back-end; `config`, `formats`, `terms` and `errors` are what their names say. Nothing is
joined, mapped or started by importing; the first call joins the domain. See
`CONTRIBUTING.md` for the reading order and `docs/design/` for the decisions.
"""

from muninn import errors
from muninn.api.buffer import MuninnBuffer
from muninn.api.bundle import Bundle, BundleDraft, loadBundle, openBundle, shareBundle
from muninn.api.listing import domainInfo, listBuffers
from muninn.api.opening import free, open
from muninn.api.sharing import array, loadArray, share, shareOnce
from muninn.api.streams import createStream
from muninn.errors import MuninnError
from muninn.sync.lock import Lock

__version__ = "0.1.0"

__all__ = [
    "Bundle",
    "BundleDraft",
    "Lock",
    "MuninnBuffer",
    "MuninnError",
    "array",
    "createStream",
    "domainInfo",
    "errors",
    "free",
    "listBuffers",
    "loadArray",
    "loadBundle",
    "open",
    "openBundle",
    "share",
    "shareBundle",
    "shareOnce",
]
