"""Muninn: memory that processes and GPUs of one host share.

    buffer = muninn.share(array, name="weights")      # one script
    buffer = muninn.open("weights"); buffer.array      # another, unrelated one: the same bytes

The map, from the outside in: `cli` is `python -m muninn`. `service` shows a domain to
others. `plans` has plans, and who decides when bytes move. `torch` is for modules of
PyTorch. `api` has the names that this module exports. `sync` lets processes wait for
each other. `session` is this process in a domain. `broker` decides for the whole
domain, in one process at a time. `formats` reads files, `kernels` run on GPUs,
`devices` is the port to GPUs with its two back-ends, and `interop` translates arrays
and streams of other libraries. `wire` has the messages on the socket, `control` the
words of shared memory, `storage` memory that has a name or a file, and `system` the
functions of the kernel and of the C primitives (`cshim/`). Each imports only packages
that come after it here. The import joins, maps and starts nothing; the first call joins
the domain. `CONTRIBUTING.md` has the reading order, `docs/design/` the decisions.
"""

from muninn import errors
from muninn.api.buffer import MuninnBuffer
from muninn.api.bundle import Bundle, BundleDraft, loadBundle, openBundle, shareBundle
from muninn.api.following import BundleFollower, followBundle
from muninn.api.listing import domainInfo, listBuffers
from muninn.api.loading import load
from muninn.api.once import shareOnce
from muninn.api.opening import free, open
from muninn.api.publishing import publish
from muninn.api.sharedarray import SharedArray
from muninn.api.sharing import array, loadArray, share
from muninn.api.streams import createStream
from muninn.errors import MuninnError
from muninn.observe.progressbar import ProgressBar
from muninn.plans.entry import applyPlan
from muninn.service.joining import endpointIfAsked
from muninn.session.services import atJoin
from muninn.sync.lock import Lock

__version__ = "0.1.0"

atJoin(endpointIfAsked)

__all__ = [
    "Bundle",
    "BundleDraft",
    "BundleFollower",
    "Lock",
    "MuninnBuffer",
    "MuninnError",
    "ProgressBar",
    "SharedArray",
    "applyPlan",
    "array",
    "createStream",
    "domainInfo",
    "errors",
    "followBundle",
    "free",
    "listBuffers",
    "load",
    "loadArray",
    "loadBundle",
    "open",
    "openBundle",
    "publish",
    "share",
    "shareBundle",
    "shareOnce",
]
