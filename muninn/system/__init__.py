"""What the kernel and the C part give: atomics, time, descriptors, threads, memory of
the host. No word of the control block.
"""
