"""The functions and classes that users call. Nothing here is shared between processes.

`options` declares the options of a buffer once; `specs` checks them and builds the spec
from which `session` creates the buffer. `sharing`, `bundle` and `lending` make buffers;
`opening` and `handles` find them. Users get a `MuninnBuffer` from both (`buffer`),
built on `attachment` (its reference to an open buffer) and `protocols` (the protocols
of other libraries). `listing`, `freedmemory` and `notebooks` describe the buffers of a
domain, and `admin` is for its operator.
"""
