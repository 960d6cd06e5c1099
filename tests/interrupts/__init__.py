"""Interrupt a process at each bytecode of each public call, and look at what it, and
the others, make of it.

`tracing` finds the bytecodes and comes between two of them; `calls` are the calls, and
what a signal handler or a finalizer may do meanwhile; `census` says what is wrong
afterwards; `stage` has the processes, one role each; `__main__` performs it all.
"""
