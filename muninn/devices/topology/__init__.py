"""The verdicts on the ordered pairs of GPUs of this machine.

What a driver states about a link (`port/links.py`) is not enough to send bytes over it:
drivers are known that state a link which corrupts, or one that is slower than the way
through the host. So each pair is verified and measured, and has a verdict.

Read `verdict` first, then `cache`, which keeps verdicts for later processes.
"""

from muninn.devices.topology.cache import Kept, keptFor
from muninn.devices.topology.verdict import Verdict

__all__ = ["Kept", "Verdict", "keptFor"]
