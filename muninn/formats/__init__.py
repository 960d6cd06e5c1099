"""Files as sources of arrays. A source knows the arrays of a file before it reads their
bytes, and reads those straight into the shared segment.

There is one module per format; `openFile` (in `opening`) chooses by the ending of the
file's name. A file is hostile until its header has been checked against its length: a
file that does not fit is `FileInvalid`, and nothing is ever unpickled.
"""

from muninn.formats.opening import openFile
from muninn.formats.source import Entry, Source

__all__ = ["Entry", "Source", "openFile"]
