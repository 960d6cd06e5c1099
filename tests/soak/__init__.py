"""The soak: for hours real processes share, write, lock and die, and at the end it
counts everything that is left. `python -m tests.soak --hours 1`.

`__main__` supervises: it starts the workers, kills and stops them, and judges. It is no
member of the domain, and reads the control block from outside (`sight`). `worker` is
one process, and `roles` has the steps that a worker repeats.
"""
