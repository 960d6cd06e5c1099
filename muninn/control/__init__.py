"""Shared memory and liveness: what members see of each other. No policy, no CUDA.

Read in this order: `layout` (the drawing), `paths`, `block`, `members`, `election`,
`rows`, `index`, `leases`, `claims`, `generations`, `tickets`, `segments`, `wire`.
"""
