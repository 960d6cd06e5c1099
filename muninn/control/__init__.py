"""Shared memory and liveness: the words by which members see each other. No policy, no
CUDA.

Read in this order: `layout` (the drawing), `geometry`, `header`, `block`, `creation`,
`withdrawal`, `memberreader`, `members`, `election`, `rows`, `index`, `leases`,
`ownerlock`, `generations`, `tickets`.
"""
