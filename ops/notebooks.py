"""Run each notebook and store the outputs of its cells in it. Call `python
ops/notebooks.py` after a change of a notebook, or of something that it shows.

Outputs are never written by hand: tests/test_notebooks.py runs the cells and compares.
"""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


def main() -> None:
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        NotebookClient(notebook, timeout=120, kernel_name="python3", record_timing=False).execute()
        notebook.metadata.language_info = {"name": "python"}  # without the version that ran it
        nbformat.write(notebook, path)


if __name__ == "__main__":
    main()
