"""lpips.py against a plain torch version, and as a distance."""

import jax
import numpy as np
import pytest

from data_pipeline.errors import InputError
from flax_heads.lpips import load_lpips, lpips

# torchvision's number: shape of the kernel.
KERNELS = {
    0: (64, 3, 11, 11),
    3: (192, 64, 5, 5),
    6: (384, 192, 3, 3),
    8: (256, 384, 3, 3),
    10: (256, 256, 3, 3),
}


@pytest.fixture(scope="module")
def tensors():
    """Random weights by their names in the two files."""
    rng = np.random.default_rng(0)
    backbone, linear = {}, {}
    for i, (number, shape) in enumerate(KERNELS.items()):
        scale = np.sqrt(2 / np.prod(shape[1:]))
        kernel = rng.normal(0, scale, shape).astype(np.float32)
        backbone[f"features.{number}.weight"] = kernel
        bias = rng.normal(0, 0.2, shape[0]).astype(np.float32)
        backbone[f"features.{number}.bias"] = bias
        weight = rng.uniform(0, 1, (1, shape[0], 1, 1)).astype(np.float32)
        linear[f"lin{i}.model.1.weight"] = weight
    return backbone, linear


@pytest.fixture(scope="module")
def variables(tensors, tmp_path_factory):
    paths = [tmp_path_factory.mktemp("lpips") / f"{i}.npz" for i in range(2)]
    for path, content in zip(paths, tensors):
        np.savez(path, **content)
    return load_lpips(*paths)


@pytest.fixture(scope="module")
def photos():
    """Smooth pictures, uint8 [3, 64, 72, 3]."""
    rng = np.random.default_rng(1)
    coarse = rng.uniform(0, 255, (3, 8, 9, 3))
    return np.asarray(jax.image.resize(coarse, (3, 64, 72, 3), "linear")).astype("u1")


def test_distances_are_torchs(tensors, variables, photos):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    backbone, linear = ({n: torch.tensor(t) for n, t in f.items()} for f in tensors)

    def taps(frames):
        x = torch.tensor(frames).permute(0, 3, 1, 2).float() / 255 * 2 - 1
        shift, scale = torch.tensor([[-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]])
        x = (x - shift.view(1, 3, 1, 1)) / scale.view(1, 3, 1, 1)
        settings = {0: (4, 2), 3: (1, 2), 6: (1, 1), 8: (1, 1), 10: (1, 1)}
        for number, (stride, padding) in settings.items():
            if number in (3, 6):
                x = functional.max_pool2d(x, 3, 2)
            name = f"features.{number}"
            weight, bias = backbone[f"{name}.weight"], backbone[f"{name}.bias"]
            x = functional.relu(functional.conv2d(x, weight, bias, stride, padding))
            yield x / (x.pow(2).sum(1, keepdim=True).sqrt() + 1e-10)

    other = photos[::-1].copy()
    expected = 0
    for weight, x, y in zip(linear.values(), taps(photos), taps(other)):
        expected += functional.conv2d((x - y) ** 2, weight).mean((1, 2, 3))
    np.testing.assert_allclose(
        lpips(variables, photos, other), expected.numpy(), rtol=1e-4, atol=1e-6
    )


def test_it_is_a_distance(variables, photos):
    other = photos[[1, 2, 0]]
    np.testing.assert_array_equal(lpips(variables, photos, photos), 0)
    forth = lpips(variables, photos, other)
    back = lpips(variables, other, photos)
    np.testing.assert_allclose(forth, back, rtol=1e-6)
    assert forth.shape == (3,)
    assert (forth > 0.01).all()


def test_it_grows_with_noise(variables, photos):
    noise = np.random.default_rng(2).normal(size=photos.shape)
    noisy = [np.clip(photos + s * noise, 0, 255).astype("u1") for s in (4, 12, 36)]
    d = np.stack([lpips(variables, photos, n) for n in noisy])
    assert (np.diff(d, axis=0) > 0).all()


def test_it_grows_with_blur(variables):
    sharp = np.random.default_rng(3).uniform(0, 255, (3, 64, 72, 3)).astype("u1")
    blurred = sharp.astype(float)
    d = []
    for _ in range(3):
        shifted = [np.roll(blurred, s, axis) for s in (-1, 0, 1) for axis in (1, 2)]
        blurred = np.mean(shifted, axis=0)
        d.append(lpips(variables, sharp, blurred.astype("u1")))
    assert (np.diff(np.stack(d), axis=0) > 0).all()


def test_whole_numbers_and_floats_agree(variables, photos):
    other = photos[::-1]
    floats = [(x / 127.5 - 1).astype(np.float32) for x in (photos, other)]
    np.testing.assert_allclose(
        lpips(variables, *floats), lpips(variables, photos, other), rtol=1e-5
    )


def test_wrong_pictures_are_refused(variables, photos):
    for a, b in ((photos, photos[:1]), (photos[:, :30], photos[:, :30])):
        with pytest.raises(ValueError, match="at least 31 x 31"):
            lpips(variables, a, b)


def test_wrong_file_names_its_first_wrong_tensor(tensors, tmp_path):
    backbone, linear = tensors
    good, bad = tmp_path / "alexnet.npz", tmp_path / "vgg.npz"
    np.savez(good, **backbone)
    other = dict(linear)
    other["lin1.model.1.weight"] = np.zeros((1, 128, 1, 1), np.float32)
    np.savez(bad, **other)
    with pytest.raises(
        InputError, match=r"vgg.npz: its tensor lin1.* is \(1, 128, 1, 1\)"
    ):
        load_lpips(good, bad)
    with pytest.raises(
        InputError, match=r"vgg.npz: its tensor features.0.weight is miss"
    ):
        load_lpips(bad, good)
    other = {n: np.full_like(t, np.nan) for n, t in backbone.items()}
    np.savez(good, **other)
    with pytest.raises(InputError, match=r"weight is not finite; get alexnet"):
        load_lpips(good, bad)
