"""The inspector: `python -m muninn`, or `muninctl`.

`main` has the grammar and runs one command. Each group of commands has a module, which
is loaded when one of its commands runs. `output` prints.
"""
