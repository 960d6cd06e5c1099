"""This process in a domain: its membership, its leases and mappings, and the buffers
that it has open.
"""
