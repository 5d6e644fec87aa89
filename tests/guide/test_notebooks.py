import ast
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_saved_with_their_outputs(path):
    """A notebook's cells are Python, their last run was one from top to bottom, and none ended with an error."""
    cells = [cell for cell in json.loads(path.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
    for cell in cells:
        compile("".join(cell["source"]), path.name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)

    assert [] == [out for cell in cells for out in cell["outputs"] if out["output_type"] == "error"]
    assert [*range(1, len(cells) + 1)] == [cell["execution_count"] for cell in cells]
    assert any(cell["outputs"] for cell in cells)


@pytest.mark.kernel
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the notebook tools' own, between their versions
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path):
    """A notebook runs from top to bottom, and its outputs are saved in it."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    saved = [bool(cell.outputs) for cell in code]
    NotebookClient(notebook, timeout=100, kernel_name="python3").execute(cwd=str(ROOT))

    assert [] == [out for cell in code for out in cell.outputs if out.output_type == "error"]
    assert saved == [bool(cell.outputs) for cell in code]
