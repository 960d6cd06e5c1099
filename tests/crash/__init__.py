"""Kill owners and importers of VRAM while their kernels run: `python -m tests.crash`."""
