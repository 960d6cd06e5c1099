"""Run each notebook and store the outputs of its cells in it. Call `python
ops/notebooks.py` after a change of a notebook, or of something that it shows.

Outputs are never written by hand: tests/test_notebooks.py runs the cells and compares.
"""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
MOST_CHARACTERS = 200


def main() -> None:
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        execute(notebook)
        notebook.metadata.language_info = {"name": "python"}  # without the version that ran it
        for cell in notebook.cells:
            for output in cell.get("outputs", ()):
                shorten(output)
        nbformat.write(notebook, path)


def execute(notebook: nbformat.NotebookNode) -> None:
    """Run all cells, in the folder of the notebooks, as Jupyter does."""
    NotebookClient(
        notebook,
        timeout=120,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(NOTEBOOKS)}},
    ).execute()


def shorten(output: nbformat.NotebookNode) -> None:
    """Keep only the beginning of a long text that stands for a table."""
    data = output.get("data", {})
    text = data.get("text/plain", "")
    if "text/html" in data and len(text) > MOST_CHARACTERS:
        data["text/plain"] = text[:MOST_CHARACTERS].partition("\n")[0] + " …"


if __name__ == "__main__":
    main()
