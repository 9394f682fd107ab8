"""Who may import whom (DESIGN: the network world and the media world meet in a batch)."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


def _imports(path: pathlib.Path) -> set[str]:
    """Every module a file imports, at any depth of its code."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{a.name}" for a in node.names)}
    return found


def _roots(path):
    return {name.split(".")[0] for name in _imports(path)}


@pytest.mark.parametrize(
    "path", sorted((ROOT / "data_pipeline").glob("*.py")), ids=lambda p: p.name
)
def test_data_pipeline_knows_no_networks(path):
    assert not _roots(path) & {"jax", "flax", "optax", "orbax", "flax_heads", "configs"}


@pytest.mark.parametrize(
    "path", sorted((ROOT / "flax_heads").glob("*.py")), ids=lambda p: p.name
)
def test_networks_know_no_media_libraries(path):
    assert not _roots(path) & {"tensorflow", "tensorflow_datasets", "dlib", "av", "cv2"}


@pytest.mark.parametrize(
    "name",
    "layers convolutions spectral losses embedder generator discriminator state "
    "objectives accumulation meta_learning fine_tuning video_embeddings "
    "parallel".split(),
)
def test_pure_modules_see_no_config(name):
    assert "ml_collections" not in _roots(ROOT / "flax_heads" / f"{name}.py")


def test_training_and_driving_from_tracks_need_no_data_extra():
    """The plain install: no TensorFlow, dlib or PyAV may be imported on the way."""
    code = (
        "import sys\n"
        "for name in ('tensorflow', 'dlib', 'av', 'apache_beam'):\n"
        "    sys.modules[name] = None\n"  # an import of it raises
        "import flax_heads.train, flax_heads.animate, flax_heads.cli\n"
        "import flax_heads.meta_model, data_pipeline.archive\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=120)
