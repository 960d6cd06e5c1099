"""The inspector: `python -m muninn`, or `muninctl`.

`main` has the grammar, one module per group of commands does the work, `output` prints.
"""
