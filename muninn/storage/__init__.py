"""Memory that has a name or a file: the paths of a domain, and the segments behind
bigMode buffers.
"""
