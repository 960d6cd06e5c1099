"""Interrupt a process at each bytecode of each public call, and check that it and the
others go on.

`tracing` finds the bytecodes and interrupts between two of them; `calls` has the calls,
and those that a signal handler or a finalizer makes meanwhile; `census` lists the
damage afterwards; `stage` has the processes, one role each; `__main__` performs it all.
"""
