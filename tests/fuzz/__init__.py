"""Fuzzing of everything that reads bytes of peers, of shared memory or of files:
`python -m fuzz`, from `tests/`.
"""
