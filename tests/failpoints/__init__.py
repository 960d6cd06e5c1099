"""Kill, or stop, a process at each point where it changes what others see, and look at
what the others make of it.

`player` is a process that can be told what to do and where to die; `scenes` are the
plays; `__main__` performs them all.
"""
