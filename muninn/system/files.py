"""`openFile` is `open`. It also works while the interpreter is finalised, when the name
is missing from the builtins (3.11 to 3.13).
"""

from __future__ import annotations

openFile = open
