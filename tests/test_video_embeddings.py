"""The row-sparse update of W against dense Adam."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flax_heads import parallel
from flax_heads.meta_learning import make_meta_step
from flax_heads.objectives import PerceptualNetwork
from flax_heads.state import init_state
from flax_heads.video_embeddings import (
    ROW_MULTIPLE,
    init_video_embeddings,
    put_rows,
    take_rows,
    update_rows,
)
from tests import tiny


def test_equals_dense_adam_with_duplicates_and_idle_rows():
    rng = np.random.default_rng(0)
    settings = dict(learning_rate=1e-2, b2=0.9, eps=1e-5)
    table = init_video_embeddings(jax.random.key(0), 12, 5)
    dense = table.values
    adam = optax.adam(1e-2, b1=0.0, b2=0.9, eps=1e-5)
    opt_state = adam.init(dense)
    for count in range(1, 30):
        index = jnp.asarray(rng.integers(0, 12, 4))  # repeats within and across steps
        gradients = jnp.asarray(rng.normal(size=(4, 5)), jnp.float32)
        dense_gradient = jnp.zeros_like(dense).at[index].add(gradients)
        updates, opt_state = adam.update(dense_gradient, opt_state, dense)
        dense = optax.apply_updates(dense, updates)
        rows = take_rows(table, index)
        rows = update_rows(rows, index, gradients, jnp.int32(count), **settings)
        table = put_rows(table, index, rows)
        np.testing.assert_allclose(table.values, dense, rtol=1e-4, atol=1e-6)


def test_rows_are_padded_to_shard_over_any_device_count():
    assert (
        init_video_embeddings(jax.random.key(0), 1, 3).values.shape[0] == ROW_MULTIPLE
    )
    table = init_video_embeddings(jax.random.key(0), ROW_MULTIPLE + 1, 3)
    assert table.values.shape == table.second_moment.shape == (2 * ROW_MULTIPLE, 3)


def test_start_is_uniform_in_a_tenth():
    values = np.asarray(init_video_embeddings(jax.random.key(0), 1000, 8).values)
    assert np.abs(values).max() <= 0.1
    np.testing.assert_allclose(values.std(), 0.1 / np.sqrt(3), rtol=0.05)


def test_a_step_copies_neither_w_nor_the_perceptual_networks():
    """5120 videos on 4 devices: 1280 rows each, read and written where they are.

    The networks' parameters are arguments: as constants they would be in every program.
    """
    mesh = parallel.make_mesh(jax.devices()[:4])

    def init():
        return init_state(
            tiny.NETWORKS,
            jax.random.key(0),
            size=tiny.SIZE,
            num_videos=5120,
            generator_adam=tiny.GENERATOR_ADAM,
            discriminator_adam=tiny.DISCRIMINATOR_ADAM,
        )

    state = jax.eval_shape(init)
    step = make_meta_step(
        tiny.NETWORKS,
        tiny.GENERATOR_ADAM,
        tiny.DISCRIMINATOR_ADAM,
        tiny.WEIGHTS,
        [PerceptualNetwork("toy", 1.0, lambda w, x: [x @ w], jnp.eye(3, 77))],
    )
    batch = parallel.abstract_batch(8, 2, tiny.SIZE)
    text = parallel.compile_step(step, mesh, state, batch).func.as_text()
    assert "f32[1280,16]" in text and "f32[5120,16]" not in text
    assert not re.findall(r"32\[1280(?:,16)?\]\S* copy\(", text)
    assert re.search(r"f32\[3,77\]\S* parameter\(", text)
    assert not re.search(r"f32\[3,77\]\S* constant\(", text)
    # Every device keeps its episodes: nothing of theirs but W's rows is exchanged.
    assert re.search(r" all-reduce(?:-start)?\(", text)  # as such a line reads
    assert not re.findall(r" (?:all-to-all|collective-permute)(?:-start)?\(", text)
    gathered = re.findall(r"(\S+) all-gather(?:-start)?\(", text)
    assert all("16,16,3]" not in shape for shape in gathered)
