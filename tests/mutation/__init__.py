"""Mutations: what each check is there for, shown by taking it away. `python -m
tests.mutation`.

A mutant is one piece of the source replaced, named with what that breaks and which
tests must notice. `control`, `broker`, `api`, `outer` and `shim` list them by layer;
`__main__` tries them, each in a copy of the tree of its own.
"""
