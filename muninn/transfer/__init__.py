"""Transfers: bytes from one tier to another one.

Its words are *tier*, *window* and *slice*. `tiers` has the places of bytes, `routes`
chooses the way between two of them and says why, `states` has the states of a transfer
as data, `handle` is a transfer that a caller can follow, and `engine` runs it.
"""
