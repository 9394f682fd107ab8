"""The notebooks run from top to bottom, and what is committed of them is fit to be read."""

import json
import pathlib
import re

import pytest

nbclient = pytest.importorskip("nbclient")
import nbformat

ROOT = pathlib.Path(__file__).resolve().parents[1]
MAX_BYTES = 600_000

notebooks = pytest.mark.parametrize(
    "path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem
)


@notebooks
def test_notebook_runs(path, tmp_path, monkeypatch):
    """With small settings, in a kernel and a folder of its own."""
    pytest.importorskip("dlib")
    # It tells on stderr where it looks for fonts, the first time on a machine.
    pytest.importorskip("matplotlib.font_manager")
    monkeypatch.setenv("FLAX_HEADS_SMALL", "1")
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(path, as_version=4)
    here = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=here).execute()
    for output in outputs(notebook):
        assert output.get("name") != "stderr", output["text"]


@notebooks
def test_committed_notebook_is_whole_and_small(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert path.stat().st_size < MAX_BYTES
    assert notebook.cells[0].cell_type == "markdown"
    assert "you will learn" in notebook.cells[0].source
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    counts = [cell.execution_count for cell in code]
    assert counts == list(range(1, len(code) + 1)), "not run from top to bottom"
    kinds = {kind for output in outputs(notebook) for kind in output.get("data", {})}
    assert any(kind.startswith("image/") for kind in kinds), "no picture"


@notebooks
def test_committed_outputs_tell_nothing_of_the_machine(path):
    notebook = nbformat.read(path, as_version=4)
    for output in outputs(notebook):
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output["text"]
        text = json.dumps(
            output.get("text")
            or {k: v for k, v in output["data"].items() if not k.startswith("image/")}
        )
        folders = r"/(home|Users|tmp|root|mnt|opt|usr)/|\w:\\\\\\\\Users"
        assert not re.search(folders, text), text
        assert len(text) < 20_000, "a log"
    assert not any("execution" in cell.metadata for cell in notebook.cells)


def test_the_launch_script_that_is_shown_is_the_one_there():
    notebook = nbformat.read(ROOT / "notebooks/05_scaling.ipynb", as_version=4)
    shown = [o["text"] for o in outputs(notebook) if "#SBATCH" in o.get("text", "")]
    script = (ROOT / "launch/slurm.sh").read_text()
    assert len(shown) == 1 and shown[0].strip() in script


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]
