"""Spectral norm against numpy's singular values, and what its gradient does."""

import jax
import jax.numpy as jnp
import numpy as np

from flax_heads import spectral

KEY = jax.random.key(0)


def _params():
    keys = jax.random.split(KEY, 4)
    return {
        "a": {
            "kernel": jax.random.normal(keys[0], (3, 3, 4, 8)),
            "bias": jnp.ones(8),
        },
        "b": {"kernel": jax.random.normal(keys[1], (3, 3, 4, 8)) * 5},
        "dense": {"kernel": jax.random.normal(keys[2], (16, 32))},
        "gamma": jnp.ones(()),
    }


def _sigma(kernel):
    matrix = np.asarray(kernel).reshape(-1, kernel.shape[-1])
    return np.linalg.svd(matrix, compute_uv=False)[0]


def test_normalized_kernels_have_unit_spectral_norm_and_the_rest_is_untouched():
    params = _params()
    vectors = spectral.init_vectors(params, KEY, num_iterations=300)
    normalized = spectral.normalize(params, vectors)
    for name in ("a", "b", "dense"):
        np.testing.assert_allclose(_sigma(normalized[name]["kernel"]), 1, rtol=1e-3)
    np.testing.assert_array_equal(normalized["a"]["bias"], params["a"]["bias"])
    np.testing.assert_array_equal(normalized["gamma"], params["gamma"])


def test_power_iteration_improves_the_estimate():
    params = _params()
    vectors = spectral.init_vectors(params, KEY, num_iterations=1)
    errors = []
    for _ in range(4):
        kernel = spectral.normalize(params, vectors)["dense"]["kernel"]
        errors.append(_sigma(kernel) - 1)
        vectors = spectral.power_iteration(params, vectors, 5)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.05


def test_batching_by_shape_changes_nothing():
    params = _params()
    together = spectral.init_vectors(params, KEY, 5)
    alone = spectral.power_iteration(
        {"b": params["b"]}, {"b/kernel": together["b/kernel"]}, 3
    )
    batched = spectral.power_iteration(params, together, 3)
    np.testing.assert_allclose(
        alone["b/kernel"]["u"], batched["b/kernel"]["u"], rtol=1e-4, atol=1e-6
    )


def test_gradient_is_orthogonal_to_the_kernel():
    """W / sigma(W) does not change when W is scaled, so its gradient ignores scale."""
    params = _params()
    vectors = spectral.init_vectors(params, KEY, 300)
    probe = jax.random.normal(jax.random.key(1), (16, 32))

    def loss(params):
        return (spectral.normalize(params, vectors)["dense"]["kernel"] * probe).sum()

    gradient = jax.grad(loss)(params)["dense"]["kernel"]
    kernel = params["dense"]["kernel"]
    assert np.linalg.norm(gradient) > 0.1
    np.testing.assert_allclose((gradient * kernel).sum(), 0, atol=1e-3)


def test_zero_kernel_stays_finite_in_the_power_iteration():
    params = {"kernel": jnp.zeros((4, 6))}
    vectors = spectral.init_vectors(params, KEY)
    assert all(np.isfinite(v).all() for v in jax.tree.leaves(vectors))
