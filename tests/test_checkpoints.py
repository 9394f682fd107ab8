"""Checkpoints: whole or absent, checked when read, the best one kept, a full disk survived."""

import errno
import functools
import logging
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore

from data_pipeline.errors import InputError
from flax_heads import checkpoints, integrity, parallel, saved_steps, spectral
from flax_heads.console import log
from flax_heads.state import TrainState, start_player
from flax_heads.video_embeddings import init_video_embeddings
from tests import tiny

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONFIG = {"size": 16, "optimizer": {"eps": 1e-5}, "num_train_steps": 10}


def make_state():
    """All parts of a run's state, with a layer in place of each network."""
    keys = jax.random.split(jax.random.key(0), 4)
    layer = {"kernel": jax.random.normal(keys[0], (64, 512)), "bias": jnp.zeros(512)}
    params = {"projection": {"dense": layer}}
    theta = {"dense": layer, "w0": jnp.zeros(16), "b": jnp.zeros(())}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        generator=start_player(
            params, spectral.init_vectors(params, keys[1]), tiny.GENERATOR_ADAM
        ),
        discriminator=start_player(
            theta, spectral.init_vectors(theta, keys[2]), tiny.DISCRIMINATOR_ADAM
        ),
        video_embeddings=init_video_embeddings(keys[3], tiny.NUM_VIDEOS, 16),
        ema=jax.tree.map(jnp.copy, params),
    )


@pytest.fixture
def messages(caplog):
    """Log lines of the project, whether or not its logger propagates."""
    log.addHandler(caplog.handler)
    level = log.level
    log.setLevel(logging.INFO)
    yield lambda: [record.getMessage() for record in caplog.records]
    log.setLevel(level)
    log.removeHandler(caplog.handler)


@functools.cache
def state_of(step: int):
    """A state that differs from step to step in every float."""
    state = jax.device_get(jax.jit(make_state)())
    state = jax.tree.map(lambda x: x + np.array(step, x.dtype), state)
    return jax.device_put(state.replace(step=np.int32(step)))


@functools.cache
def abstract(devices: int = 1):
    mesh = parallel.make_mesh(jax.devices()[:devices])
    target = jax.eval_shape(make_state)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=sharding
        ),
        target,
        parallel.state_shardings(mesh, target),
    )


def write(workdir, steps, keep=10, metrics=None):
    with checkpoints.open_manager(workdir, keep) as manager:
        for step in steps:
            measured = metrics and metrics.get(step)
            checkpoints.save(manager, step, state_of(step), CONFIG, measured)


def restore(workdir, **options):
    return checkpoints.restore_newest(workdir, abstract(), CONFIG, **options)


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("two_steps")
    write(workdir, [1, 2], metrics={1: {"held_out/l1": 0.5}, 2: {"held_out/l1": 0.4}})
    return workdir


@pytest.fixture
def copy(two_steps, tmp_path):
    """Two steps that may be damaged."""
    shutil.copytree(two_steps, tmp_path / "run")
    return tmp_path / "run"


def _flip(path: pathlib.Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def _assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


def test_everything_comes_back_and_was_hashed(two_steps):
    _assert_same(restore(two_steps), state_of(2))
    folder = two_steps / "checkpoints" / "2"
    recorded = saved_steps.read_json(folder, "digests")
    leaves = {name for name in recorded if name.startswith("state/")}
    assert len(leaves) == len(jax.tree.leaves(abstract()))
    assert set(recorded) - leaves == {"config", "code", "metrics"}
    assert not integrity.differing({"state": state_of(2)}, recorded)
    assert "state/ema/projection/dense/bias" in integrity.differing(
        {"state": state_of(1)}, recorded
    )
    assert saved_steps.read_json(folder, "code") == integrity.code_version()


def test_digests_see_values_types_and_shapes():
    x = np.arange(6, dtype=np.float32)
    variants = [x, x.reshape(2, 3), x.astype(np.int32), x + 1e-6, -x, np.float32(0)]
    seen = {integrity.digests({"x": v})["x"] for v in variants}
    assert len(seen) == len(variants)
    assert integrity.digests([x]) == integrity.digests([jnp.asarray(x)])
    assert integrity.digests([x[::2]]) == integrity.digests([x[::2].copy()])


def test_no_checkpoint_is_none(tmp_path):
    assert restore(tmp_path) is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_step_with_any_damaged_file_is_noticed(two_steps, tmp_path, damage):
    """Of each file in turn: either it does not matter, or the step before is used."""
    files = [
        path.relative_to(two_steps)
        for path in sorted((two_steps / "checkpoints" / "2").rglob("*"))
        if path.is_file()
    ]
    passed_over = set()
    for i, file in enumerate(files):
        workdir = tmp_path / str(i)
        shutil.copytree(two_steps, workdir)
        path = workdir / file
        if damage == "cut":
            os.truncate(path, path.stat().st_size // 2)
        else:
            _flip(path, 4 * path.stat().st_size)  # the middle
        state = restore(workdir)
        step = int(state.step)
        _assert_same(state, state_of(step))
        if step == 1:
            passed_over.add(file.parts[2])
            assert (workdir / "damaged_checkpoints" / "2").exists()
    assert passed_over == {"state", "config", "code", "metrics", "digests"}
    write(workdir, [2])  # its number is free again
    _assert_same(restore(workdir), state_of(2))


def test_bit_flips_in_the_arrays_are_noticed(two_steps, tmp_path, messages):
    """Orbax restores nearly all of these as they are.

    Some lie where nothing reads, in nodes of the storage library's database that later
    ones replaced: how many depends on the order of writing.
    """
    rng = np.random.default_rng(0)
    arrays = [p for p in (two_steps / "checkpoints" / "2" / "state").rglob("d/*")]
    largest = max(arrays, key=lambda path: path.stat().st_size).relative_to(two_steps)
    noticed = tries = 0
    while noticed < 5:
        tries += 1
        workdir = tmp_path / str(tries)
        shutil.copytree(two_steps, workdir)
        path = workdir / largest
        _flip(path, int(rng.integers(path.stat().st_size * 8)))
        state = restore(workdir, read_only=True)
        _assert_same(state, state_of(int(state.step)))
        noticed += int(state.step) == 1
        assert tries < 60
    warnings = {m for m in messages() if "is damaged" in m}
    assert len(warnings) == 5
    assert all(f"{os.sep}2 is damaged" in w and "step 1 instead" in w for w in warnings)


def test_another_runs_damaged_step_stays_where_it_is(copy):
    _flip(copy / "checkpoints" / "2" / "config" / "metadata", 100)
    before = sorted(copy.rglob("*"))
    assert int(restore(copy, read_only=True).step) == 1
    assert sorted(copy.rglob("*")) == before


def test_nothing_is_moved_where_nothing_is_intact(copy):
    for step in "12":
        shutil.rmtree(copy / "checkpoints" / step / "state")
    with pytest.raises(InputError, match="no intact one is left") as error:
        restore(copy)
    assert "checkpoints/1 is damaged" in str(error.value) and "\n" not in str(
        error.value
    )
    assert saved_steps.newest_first(copy / "checkpoints") == [2, 1]


def test_storage_that_does_not_answer_is_no_damage(copy, monkeypatch):
    """ESTALE of a network file system: the newest step stays, and nothing older is read."""

    def stale(step_folder, item):
        raise OSError(errno.ESTALE, "Stale file handle")

    with monkeypatch.context() as patched:
        patched.setattr(saved_steps, "read_json", stale)
        with pytest.raises(InputError, match="cannot be read at the moment"):
            restore(copy)
    assert not (copy / "damaged_checkpoints").exists()
    assert int(restore(copy).step) == 2


def test_models_are_checked_too(copy, messages):
    _, _, intact = checkpoints.load_for_fine_tuning(copy)
    _assert_same(intact["ema"], state_of(2).ema)
    for path in (copy / "checkpoints" / "2" / "state").rglob("d/*"):
        _flip(path, 4 * path.stat().st_size)
    step, _, loaded = checkpoints.load_for_fine_tuning(copy)
    assert step == 1
    _assert_same(loaded["ema"], state_of(1).ema)
    assert any("2 is damaged" in m for m in messages())
    with pytest.raises(InputError, match="2 is damaged"):
        checkpoints.load_for_fine_tuning(copy, 2)
    assert (copy / "checkpoints" / "2").exists()


def test_steps_of_older_code_load(copy, messages):
    for item in ("digests", "code", "metrics"):
        shutil.rmtree(copy / "checkpoints" / "2" / item)
    _assert_same(restore(copy), state_of(2))
    assert checkpoints.load_for_fine_tuning(copy)[0] == 2
    assert any("no digests" in m for m in messages())


def test_last_ones_and_the_best_one_are_kept(tmp_path):
    l1 = {1: 0.5, 2: 0.1, 3: 0.3, 4: float("nan"), 6: 0.2, 7: 0.4}
    write(tmp_path, range(1, 8), 2, {s: {"held_out/l1": v} for s, v in l1.items()})
    assert saved_steps.newest_first(tmp_path / "checkpoints") == [7, 6, 2]
    assert checkpoints.load_for_fine_tuning(tmp_path, "best")[0] == 2
    assert checkpoints.load_for_fine_tuning(tmp_path)[0] == 7
    # Opened again, it still knows; and a better one takes its place.
    write(tmp_path, [8], 1, {8: {"held_out/l1": 0.3}})
    assert saved_steps.newest_first(tmp_path / "checkpoints") == [8, 2]
    write(tmp_path, [9, 10], 1, {9: {"held_out/l1": 0.05}})
    assert saved_steps.newest_first(tmp_path / "checkpoints") == [10, 9]


def test_steps_without_metrics_have_no_best(tmp_path):
    write(tmp_path, [1, 2, 3], keep=1)
    assert saved_steps.newest_first(tmp_path / "checkpoints") == [3]
    with pytest.raises(InputError, match="no checkpoint best"):
        checkpoints.load_for_fine_tuning(tmp_path, "best")


def test_unreadable_metrics_do_not_keep_a_run_from_going_on(copy):
    (copy / "checkpoints" / "1" / "metrics" / "metrics").write_text('{"held')
    assert int(restore(copy).step) == 2
    write(copy, [3])
    assert saved_steps.newest_first(copy / "checkpoints") == [3, 2]
    assert (copy / "damaged_checkpoints" / "1").exists()


@pytest.mark.parametrize("saved_on, read_on", [(4, 1), (4, 2), (1, 4), (4, 3)])
def test_other_device_counts(tmp_path, saved_on, read_on):
    mesh = parallel.make_mesh(jax.devices()[:saved_on])
    state = parallel.jit_init(make_state, mesh)
    with checkpoints.open_manager(tmp_path) as manager:
        checkpoints.save(manager, 0, state, CONFIG)
    read = checkpoints.restore_newest(tmp_path, abstract(read_on), CONFIG)
    rows = read.video_embeddings.values
    assert len(rows.sharding.device_set) == read_on
    assert integrity.digests(read) == integrity.digests(state)


def test_other_config_and_other_code_are_named(copy, messages, monkeypatch):
    newer = integrity.code_version() | {"jax": "99"}
    monkeypatch.setattr(integrity, "code_version", lambda: newer)
    restore(copy)
    assert any("other code (jax: " in m and "-> 99)" in m for m in messages())
    other = CONFIG | {"optimizer": {"eps": 1e-3}, "num_train_steps": 20}
    with pytest.raises(InputError) as error:
        checkpoints.restore_newest(copy, abstract(), other)
    message = str(error.value)
    assert "optimizer.eps: 1e-05 -> 0.001" in message and "-> 99" in message
    assert "num_train_steps" not in message


def test_the_reason_of_a_failed_save_is_what_the_system_said(tmp_path):
    """TensorStore puts its cause before a page of settings."""
    (tmp_path / "file").touch()
    store = {"driver": "file", "path": str(tmp_path / "file" / "array")}
    spec = {"driver": "zarr", "kvstore": store, "metadata": {"shape": [8]}}
    with pytest.raises(Exception) as error:
        tensorstore.open(spec, create=True, dtype="float32").result()
    assert "tensorstore_spec" in str(error.value) and len(str(error.value)) > 500
    assert saved_steps.reason(error.value).endswith("Not a directory")


# Saves step 1, then fills what it may write, then saves step 2.
_FULL_DISK = """
import pathlib, resource, sys
from tests.test_checkpoints import CONFIG, state_of
from flax_heads import checkpoints
from data_pipeline.errors import InputError
workdir, how = pathlib.Path(sys.argv[1]), sys.argv[2]
try:
    with checkpoints.open_manager(workdir, keep=1) as manager:
        checkpoints.save(manager, 1, state_of(1), CONFIG)
        manager.wait_until_finished()
        if how == "limit":  # of the size of any file
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        else:
            with open(workdir / "filler", "wb", buffering=0) as file:
                try:
                    while file.write(bytes(4096)):
                        pass
                except OSError:
                    file.truncate(file.tell() - 60_000)
        checkpoints.save(manager, 2, state_of(2), CONFIG)
except InputError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
"""


def _run_on_full_disk(workdir, how):
    command = [sys.executable, "-c", _FULL_DISK, str(workdir), how]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2, done.stderr
    (line,) = [x for x in done.stderr.splitlines() if "checkpoint could not" in x]
    assert "checkpoints/1" in line  # the storage library's threads may add their own
    _assert_same(restore(workdir), state_of(1))
    return line


def test_a_file_that_may_not_grow_leaves_the_step_before(tmp_path):
    _run_on_full_disk(tmp_path, "limit")


def test_a_full_disk_leaves_the_step_before(tmp_path):
    # Two steps have to fit: 0.6 MB each, or 0.9 where other programs run, as the storage
    # library groups small arrays by when they come (21 files of one step, or 61).
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(tmp_path)]
    if (
        not shutil.which("mount")
        or subprocess.run(mount, capture_output=True).returncode
    ):
        pytest.skip("may not mount a small file system here")
    try:
        assert "No space left" in _run_on_full_disk(tmp_path, "fill")
        (tmp_path / "filler").unlink()
        write(tmp_path, [2])  # there is room again
        _assert_same(restore(tmp_path), state_of(2))
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
