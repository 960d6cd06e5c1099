"""Mutations: each check is taken away in turn, and some test must notice. `python -m
tests.mutation`.

A mutant replaces one piece of the source, and names the rule that this breaks and the
tests that must notice. `control`, `broker`, `api`, `outer` and `shim` list them by
layer; `__main__` tries them, each in a copy of the tree of its own.
"""
