"""Memory that has a name or a file: where a domain keeps it, and the segments behind
bigMode buffers.
"""
