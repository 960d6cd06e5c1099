"""Files as sources of arrays: what is in them is known before it is read, and read
straight into the shared segment.

One module per format; `openFile` (in `opening`) chooses by the ending of the file's
name. A file is hostile until its header has been checked against its length: anything
that does not fit is `FileInvalid`, and nothing is ever unpickled.
"""

from muninn.formats.opening import openFile
from muninn.formats.source import Entry, Source

__all__ = ["Entry", "Source", "openFile"]
