"""Policy: how much a domain may use, by the configuration of its broker (the limits, and
the usage that counts against them), and which members the broker accepts.
"""
