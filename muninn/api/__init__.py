"""What users call, and nothing that two processes share.

`options` declares the options of a buffer once; `specs` checks them and builds the
specification that `session` creates. `sharing`, `bundle` and `lending` make buffers;
`opening` and `handles` find them; `buffer` is what users get of either, on the base of
`attachment` (its hold) and `protocols` (what other libraries take it for). `listing`,
`freedmemory` and `notebooks` describe what there is, and `admin` changes it.
"""
