"""`openFile` is `open`, also while the interpreter is finalised, when the builtins have
lost it again (3.11 to 3.13).
"""

from __future__ import annotations

openFile = open
