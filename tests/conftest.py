"""Four simulated CPU devices for every test, and the optional sample data."""

import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
)
# Compiling dominates tests of tiny models.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# Programs that several tests (and test processes) share are compiled once.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR",
    str(pathlib.Path(__file__).resolve().parents[1] / ".pytest_cache" / "xla"),
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import hypothesis
import jax
import pytest

# The same examples everywhere: a change fails, not a day.
hypothesis.settings.register_profile("same", derandomize=True, database=None)
hypothesis.settings.load_profile("same")

SAMPLES = pathlib.Path(
    os.environ.get(
        "FLAX_HEADS_SAMPLES",
        pathlib.Path(__file__).resolve().parents[2] / "shared" / "data",
    )
)


@pytest.fixture(scope="session")
def samples() -> pathlib.Path:
    """Folder of real and broken media; tests that need it skip where it is absent."""
    if not (SAMPLES / "MANIFEST.csv").exists():
        pytest.skip(f"no sample media at {SAMPLES} (set FLAX_HEADS_SAMPLES)")
    return SAMPLES


def pytest_collection_modifyitems(items):
    """Long files of the alphabet's end first: one worker would wait for another there."""
    long = ("test_train.py", "test_sweep.py")
    items.sort(key=lambda item: item.path.name not in long)


@pytest.fixture(autouse=True, scope="module")
def _forget_compiled_programs():
    """Those of all modules together would fill a laptop's memory."""
    yield
    jax.clear_caches()
