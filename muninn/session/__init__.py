"""This process in a domain: its membership, its leases and mappings, and what it has
open.
"""
