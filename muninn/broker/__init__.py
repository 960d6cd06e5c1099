"""Policy: what the one broker of a domain decides. No CUDA, no raw offset.

`broker` serves and dispatches; each noun has its module: `directory` (the life of a row), `catalog` (names and sums), `vault`
(descriptors that have no name in `/dev/shm`), `upkeep` (what is done on the side), `deathwatch` (deaths: suspected, confirmed),
`reclaiming` (what follows from a death), `journal`, `capabilities`, `client` (the other end of the socket), `repair`.
"""
