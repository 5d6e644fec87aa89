from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the notebook tools' own, between their versions
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path):
    """A notebook runs from top to bottom, and its outputs are saved in it."""
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    saved = [bool(cell.outputs) for cell in code]
    NotebookClient(notebook, timeout=100, kernel_name="python3").execute(cwd=str(ROOT))

    assert [] == [out for cell in code for out in cell.outputs if out.output_type == "error"]
    assert saved == [bool(cell.outputs) for cell in code]
