"""The kernel and the C part, for the packages above: atomics, time, descriptors,
threads, memory of the host. No word of the control block is here.
"""
