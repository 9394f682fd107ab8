"""Optimisers and networks built from plain values."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flax_heads.state import Adam, make_networks


@pytest.mark.parametrize("b1", [0.0, 0.5])
def test_adam_is_adam_also_without_its_first_moment(b1):
    ours = Adam(1e-2, b1=b1, b2=0.9, eps=1e-5).transformation()
    reference = optax.adam(1e-2, b1=b1, b2=0.9, eps=1e-5)
    params = {"w": jnp.ones(5)}
    state, expected_state = ours.init(params), reference.init(params)
    for i in range(20):
        gradient = {"w": jax.random.normal(jax.random.key(i), (5,)) * 10.0 ** (i % 4)}
        updates, state = ours.update(gradient, state, params)
        expected, expected_state = reference.update(gradient, expected_state, params)
        np.testing.assert_allclose(updates["w"], expected["w"], rtol=1e-5)
    sizes = [
        sum(leaf.size for leaf in jax.tree.leaves(s)) for s in (state, expected_state)
    ]
    assert sizes[0] < sizes[1] if b1 == 0 else sizes[0] == sizes[1]


def test_embedding_sizes_must_agree():
    with pytest.raises(ValueError, match="embedding size"):
        make_networks({"channels": (8, 16)}, {"channels": (8,)}, {"channels": (8, 8)})
