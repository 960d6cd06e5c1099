"""How those who share a buffer wait for each other: fences, readers and writers,
snapshots, `Lock`.
"""
