"""Every notebook runs from top to bottom in a process of its own."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.name
)
def test_notebook_runs(path, tmp_path):
    cells = json.loads(path.read_text())["cells"]
    code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    script = tmp_path / "notebook.py"
    # Spawned workers import the script again: only the first process may run it.
    body = "\n".join(code).replace("\n", "\n    ")
    script.write_text(f"if __name__ == '__main__':\n    {body}\n")
    environment = os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, script], check=True, env=environment, cwd=tmp_path, timeout=300
    )
