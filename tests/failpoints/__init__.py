"""Kill, or stop, a process at each point where it changes state that others see, and
check that the others go on.

A `player` is a process that gets calls and the point at which it dies; `plays` are the
calls, `scenes` put players and deaths together, and `__main__` performs them all.
"""
