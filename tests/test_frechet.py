"""frechet.py against closed forms, scipy's matrix square root and a plain double loop."""

import importlib.util

import jax
import numpy as np
import pytest
import scipy.linalg
import scipy.special

from data_pipeline import synthetic
from flax_heads import face_id, frechet
from flax_heads.frechet import frechet_distance, kernel_distance


def exact_sample(rng, n, mean, root):
    """[n, D] whose sample mean is `mean` and sample covariance root @ root.T."""
    noise = rng.normal(size=(n, len(mean)))
    noise -= noise.mean(0)
    white, _ = np.linalg.qr(noise)
    return mean + np.sqrt(n - 1) * white @ root.T


def formula_of_pytorch_fid(a, b):
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    shift = a.mean(0) - b.mean(0)
    return shift @ shift + np.trace(cov_a) + np.trace(cov_b) - 2 * np.trace(root)


def test_frechet_of_gaussians_along_the_axes():
    """Diagonal covariances: |m_a - m_b|^2 + sum of (s_a - s_b)^2."""
    rng = np.random.default_rng(0)
    mean_a, mean_b = rng.normal(size=(2, 5))
    scale_a, scale_b = rng.uniform(0.1, 3, (2, 5))
    a = exact_sample(rng, 40, mean_a, np.diag(scale_a))
    b = exact_sample(rng, 60, mean_b, np.diag(scale_b))
    expected = np.square(mean_a - mean_b).sum() + np.square(scale_a - scale_b).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)


def test_frechet_of_gaussians_that_do_not_commute():
    """2 x 2: Tr (C_a C_b)^(1/2) = sqrt(Tr(C_a C_b) + 2 sqrt(det C_a det C_b))."""
    rng = np.random.default_rng(1)
    root_a, root_b = rng.normal(size=(2, 2, 2))
    cov_a, cov_b = root_a @ root_a.T, root_b @ root_b.T
    a = exact_sample(rng, 10, np.zeros(2), root_a)
    b = exact_sample(rng, 10, np.array([3.0, -4.0]), root_b)
    determinants = np.linalg.det(cov_a) * np.linalg.det(cov_b)
    cross = np.sqrt(np.trace(cov_a @ cov_b) + 2 * np.sqrt(determinants))
    expected = 25 + np.trace(cov_a) + np.trace(cov_b) - 2 * cross
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)


def test_frechet_is_pytorch_fids():
    rng = np.random.default_rng(2)
    a = rng.normal(size=(400, 32)) @ rng.normal(size=(32, 32))
    b = rng.normal(size=(300, 32)) @ rng.normal(size=(32, 32)) + 0.5
    expected = formula_of_pytorch_fid(a, b)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("n", [6, 200], ids=["n < D", "n > D"])
def test_frechet_is_a_squared_distance(n):
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(2, n, 20)).astype(np.float32)
    distance = frechet_distance(a, b)
    assert frechet_distance(a, a[::-1]) < 1e-12
    assert frechet_distance(b, a) == pytest.approx(distance, rel=1e-9)
    assert frechet_distance(7 * a, 7 * b) == pytest.approx(49 * distance, rel=1e-5)
    # A rotation changes nothing; a shift of one set adds its squared length.
    turn, _ = np.linalg.qr(rng.normal(size=(20, 20)))
    assert frechet_distance(a @ turn, b @ turn) == pytest.approx(distance, rel=1e-5)
    assert frechet_distance(a, a + 2) == pytest.approx(4 * 20, rel=1e-5)


def test_frechet_without_full_rank():
    """Sets in orthogonal planes share nothing: the covariances' traces remain."""
    rng = np.random.default_rng(4)
    a, b = np.zeros((2, 5, 12))
    a[:, :3] = rng.normal(size=(5, 3))
    b[:, 6:] = rng.normal(size=(5, 6))
    shift = a.mean(0) - b.mean(0)
    traces = a.var(0, ddof=1).sum() + b.var(0, ddof=1).sum()
    assert frechet_distance(a, b) == pytest.approx(shift @ shift + traces, rel=1e-9)


def test_kernel_distance_is_the_double_loop(monkeypatch):
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(7, 3)), 2 * rng.normal(size=(5, 3)) + 1

    def mean_kernel(x, y, skip_same):
        values = [
            (p @ q / 3 + 1) ** 3
            for i, p in enumerate(x)
            for j, q in enumerate(y)
            if not (skip_same and i == j)
        ]
        return np.mean(values)

    expected = (
        mean_kernel(a, a, True) + mean_kernel(b, b, True) - 2 * mean_kernel(a, b, False)
    )
    assert kernel_distance(a, b) == pytest.approx(expected, rel=1e-12)
    monkeypatch.setattr(frechet, "_BLOCK", 2)  # several blocks, the last one short
    assert kernel_distance(a, b) == pytest.approx(expected, rel=1e-12)


def test_kernel_distance_of_gaussians():
    """D = 1: the kernel compares moments, 3 dm_1^2 + 3 dm_2^2 + dm_3^2."""
    a = scipy.special.ndtri((np.arange(2000) + 0.5) / 2000)[:, None]  # quantiles
    b = 1 + 0.5 * a  # moments 1, 1.25, 1.75 against 0, 1, 0
    assert kernel_distance(a, b) == pytest.approx(3 + 3 * 0.0625 + 3.0625, rel=0.01)


def test_few_samples_inflate_frechet_but_not_kernel_distance():
    rng = np.random.default_rng(7)
    sets = rng.normal(size=(10, 2, 100, 64))
    assert min(frechet_distance(a, b) for a, b in sets) > 20
    kernels = [kernel_distance(a, b) for a, b in sets]
    assert min(kernels) < 0 < max(kernels)
    assert abs(np.mean(kernels)) < 3 * np.std(kernels) / np.sqrt(len(kernels))
    shifted = [kernel_distance(a, b + 0.5) for a, b in sets]
    assert min(shifted) > 3 * max(kernels)


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_wrong_features_are_refused(distance):
    good = np.ones((4, 3))
    for bad in (np.ones((1, 3)), np.ones(3), np.ones((4, 2)), np.full((4, 3), np.nan)):
        with pytest.raises(ValueError, match="features must"):
            distance(good, bad)


@pytest.mark.skipif(
    importlib.util.find_spec("face_recognition_models") is None,
    reason="face_recognition_models is not installed",
)
def test_face_descriptors_tell_people_apart():
    """Two videos of one person are nearer to each other than to another person's."""
    weights = face_id.load_weights()
    describe = jax.jit(face_id.descriptor)

    def descriptors(person, video):
        identity = synthetic.sample_identity(person)
        motion = synthetic.sample_motion(10 * person + video, num_frames=6)
        frames = synthetic.render(identity, motion, face_id.CHIP_SIZE)[0]
        return describe(weights, frames.astype(np.float32))

    one, again, other = descriptors(0, 0), descriptors(0, 1), descriptors(1, 0)
    for distance in (frechet_distance, kernel_distance):
        assert distance(one, again) < 0.7 * distance(one, other)
    assert frechet_distance(one, one) < 1e-6
