"""Modules of PyTorch whose weights are shared: loaded once, attached by every process
that serves them.

    import muninn.torch                                # imports torch; `import muninn` does not
    muninn.torch.shareModule(model, "model")           # one process
    muninn.torch.attachModule(model, "model")          # the others, also of meta tensors

`shareModule` makes one bundle of a module's parameters and buffers, each under its name,
and those that are tied once. `attachModule` puts views of that memory
in their place. Nothing is copied. `followModule` does so again, between two calls,
when a newer version was published.

On host memory the views are copy-on-write: a module that was not put into `eval()`, or
an optimizer, writes to pages of this process, and the shared bytes stay as they are. On
VRAM there is no such memory, and PyTorch has no read-only tensors: a write through a view
changes the weights of every process if the bundle allows writing, and otherwise ends
this process's work on that GPU (`illegal address`).
"""

from muninn.session.membership import importEarly
from muninn.torch.attaching import Attached, attachModule, shareModule, stateDict
from muninn.torch.following import Follower, followModule

__all__ = ["Attached", "Follower", "attachModule", "followModule", "shareModule", "stateDict"]

# A program that serves waits here, and not at its first request.
importEarly()
