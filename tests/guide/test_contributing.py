import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / ".github" / "CONTRIBUTING.md").read_text("utf-8")
PATHS = sorted(set(re.findall(r"(?<![\w/.])(?:\.?[\w-]+/)+[\w.-]+", TEXT)) - {"bin/pip", "bin/pytest"})

FOLDERS = {path.name for path in (ROOT / "token_handlers").iterdir() if path.is_dir()}


@pytest.mark.parametrize("path", [path for path in PATHS if not path.startswith(".venv/")])
def test_the_map_is_true(path):
    """A file or folder that the map names is there, in the project or in the package."""
    if path.split("/")[0] in FOLDERS:
        path = f"token_handlers/{path}"
    module, _, name = path.rpartition(".")
    places = [ROOT / path, ROOT / f"{module}.py"]

    assert any(place.exists() for place in places), path
    assert places[0].exists() or name in places[1].read_text("utf-8")


def test_every_module_has_its_floor():
    """The table of the floors names every module and folder of the package's top."""
    top = {each.stem for each in (ROOT / "token_handlers").iterdir() if each.suffix in ("", ".py")}

    assert set() == {name for name in top - {"__init__", "__pycache__"} if f"`{name}`" not in TEXT}


def test_ci_runs_every_check():
    """The workflow runs .ci/run on each supported Python."""
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8")
    classifiers = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text("utf-8"))

    assert ".ci/run" in workflow
    assert classifiers == re.findall(r'"(3\.\d+)"', workflow)
