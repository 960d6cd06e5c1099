"""Owners and importers of VRAM, killed while their kernels run: `python -m
tests.crash`.
"""
