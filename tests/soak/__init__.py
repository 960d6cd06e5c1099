"""The soak: hours of real processes that share, write, lock and die, and a count of
what is left behind. `python -m tests.soak --hours 1`.

`__main__` supervises: it starts the workers, kills and stops them, and judges. It is no
member of the domain; what it knows of the control block it reads there (`sight`).
`worker` is one process, `roles` is what a worker does over and over.
"""
