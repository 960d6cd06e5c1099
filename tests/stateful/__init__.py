"""The public API against a plain model of it: random steps of real processes, kills and
stops among them.
"""
