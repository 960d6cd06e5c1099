"""Run each notebook and keep what its cells print: `python ops/notebooks.py`, after a
change of them or of what they show.

Nobody writes outputs by hand; tests/test_notebooks.py compares them with what the cells
print then.
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
        notebook.metadata.language_info = {"name": "python"}  # and not which one ran it
        nbformat.write(notebook, path)


if __name__ == "__main__":
    main()
