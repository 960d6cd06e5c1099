"""The broker of a domain: the decisions that it makes in its term. This package uses no
CUDA, and no offset of a shared word.

`broker` is the term, `server` its sockets, `handlers/` the requests. Each noun has its
module: `directory` (the life of a row), `catalog` (names and sums), `descriptorstore`
(descriptors of memory without a name), `deathwatch` (deaths: suspected, confirmed),
`reclaiming` (the words and memory of a dead member), `maintenance` (the work beside the
requests), `journal`, `snapshot`, `repair`, `inbox`, `candidacy` (whether this process
can serve).
"""
