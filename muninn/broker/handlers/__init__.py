"""The handlers of requests, a module a noun. `table` says which handler serves which
operation.
"""
