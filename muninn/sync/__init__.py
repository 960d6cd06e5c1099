"""How the processes that share a buffer wait for each other: fences, read and write
access, snapshots, `Lock`.
"""
