"""What users call.

`membership` joins a domain, `holdings` keeps what this process has open, `buffer` is what users get, and the rest makes or finds
buffers.
"""
