"""The broker: what the one broker of a domain decides in its term. No CUDA, no offset
of a shared word.

`broker` is the term, `server` its sockets, `handlers/` the requests. Each noun has its
module: `directory` (the life of a row), `catalog` (names and sums), `descriptorstore`
(descriptors of memory without a name), `deathwatch` (deaths: suspected, confirmed),
`reclaiming` (what follows from a death), `maintenance` (what is done on the side),
`journal`, `snapshot`, `repair`, `inbox`, `candidacy` (whether this process can serve).
"""
