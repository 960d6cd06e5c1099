"""Policy: what a domain may use, as the configuration of its broker says (limits, and
what is counted against them), and which members the broker accepts.
"""
