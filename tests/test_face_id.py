"""face_id.py against dlib itself, and the properties the losses rely on."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from data_pipeline.errors import InputError
from flax_heads import face_id

needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("face_recognition_models") is None,
    reason="face_recognition_models is not installed",
)
jit_descriptor = jax.jit(face_id.descriptor)
jit_chips = jax.jit(face_id.chips_from_frames)


class Dlib:
    """The original: detector, landmarks, chips and descriptors."""

    def __init__(self, dlib, folder):
        self._dlib = dlib
        self._detect = dlib.get_frontal_face_detector()
        self._predict = dlib.shape_predictor(
            str(folder / "shape_predictor_68_face_landmarks.dat")
        )
        self._recognize = dlib.face_recognition_model_v1(
            str(folder / face_id.WEIGHTS_FILE)
        )

    def landmarks(self, image):
        shape = self._predict(image, self._detect(image, 0)[0])
        return np.array([(p.x, p.y) for p in shape.parts()], np.float32)

    def chip(self, image, landmarks):
        points = self._dlib.points(
            [self._dlib.point(*p) for p in landmarks.astype(int)]
        )
        shape = self._dlib.full_object_detection(self._dlib.rectangle(), points)
        return self._dlib.get_face_chip(image, shape, size=150, padding=0.25)

    def descriptor(self, chip):
        return np.array(self._recognize.compute_face_descriptor(chip))


@pytest.fixture(scope="module")
def weights():
    return jax.tree.map(jnp.asarray, face_id.load_weights())


@pytest.fixture(scope="module")
def dlib():
    module = pytest.importorskip("dlib")
    spec = importlib.util.find_spec("face_recognition_models")
    if spec is None:
        pytest.skip("face_recognition_models is not installed")
    return Dlib(module, face_id._package_file().parent)


@pytest.fixture(scope="module")
def photos():
    """One woman [256, 256, 3] uint8: straight, turned, shifted, darker, noisy."""
    data = pytest.importorskip("skimage.data")
    photo = Image.fromarray(data.astronaut())

    def view(angle=0, left=100, top=0):
        turned = photo.rotate(angle, Image.Resampling.BICUBIC, center=(220, 120))
        return np.array(turned.crop((left, top, left + 256, top + 256)))

    dark = (view() * 0.6).astype(np.uint8)
    noise = np.random.default_rng(0).normal(0, 8, dark.shape)
    noisy = np.clip(view() + noise, 0, 255).astype(np.uint8)
    return [view(), view(20), view(-12, left=121, top=-3), dark, noisy]


@pytest.fixture(scope="module")
def chips(dlib, photos):
    """dlib's own chips of the photos, uint8 [5, 150, 150, 3]."""
    return np.stack([dlib.chip(p, dlib.landmarks(p)) for p in photos])


def content(apply, variables, fake, real):
    pairs = zip(apply(variables, fake), apply(variables, real), strict=True)
    return sum(jnp.abs(f - r).mean() for f, r in pairs)


@needs_weights
def test_descriptor_is_dlibs(dlib, weights, chips):
    ours = jit_descriptor(weights, chips.astype(np.float32))
    dlibs = np.stack([dlib.descriptor(chip) for chip in chips])
    np.testing.assert_allclose(ours, dlibs, atol=1e-5)


@needs_weights
def test_descriptor_of_noise_is_dlibs(dlib, weights):
    noise = np.random.default_rng(1).integers(0, 256, (1, 150, 150, 3), np.uint8)
    ours = jit_descriptor(weights, noise.astype(np.float32))[0]
    np.testing.assert_allclose(ours, dlib.descriptor(noise[0]), atol=1e-5)


@needs_weights
def test_gradient_is_the_finite_difference(weights, chips):
    rng = np.random.default_rng(2)
    # The fractions break the ties of flat patches, where max has no derivative.
    chip = (chips[:1] + rng.uniform(size=chips[:1].shape)).astype(np.float32)
    direction = rng.normal(size=chip.shape).astype(np.float32)
    readout = rng.normal(size=128).astype(np.float32)

    def along(t, weights, chip, direction, readout):
        return face_id.descriptor(weights, chip + t * direction)[0] @ readout

    inputs = (weights, chip, direction, readout)
    slope = jax.jit(jax.grad(along))(0.0, *inputs)
    # In float64: float32's rounding alone is 1 % of the difference.
    with jax.enable_x64(True):
        exact = jax.jit(along)
        inputs = jax.tree.map(np.float64, inputs)
        difference = (exact(1e-6, *inputs) - exact(-1e-6, *inputs)) / 2e-6
    np.testing.assert_allclose(slope, difference, rtol=1e-4)


@needs_weights
def test_feature_maps(weights):
    maps = jax.eval_shape(face_id.face_features, weights, jnp.zeros((2, 150, 150, 3)))
    assert [m.shape[1:] for m in maps] == [
        (72, 72, 32),
        (35, 35, 32),
        (17, 17, 64),
        (8, 8, 128),
        (4, 4, 256),
        (2, 2, 256),
    ]
    with pytest.raises(ValueError, match="chips must be"):
        face_id.face_features(weights, jnp.zeros((2, 128, 128, 3)))


# At 900 the chip spans more than 300 pixels, and dlib reads a level of a pyramid.
@pytest.mark.parametrize(("size", "tolerance"), [(128, 0.6), (256, 0.6), (900, 1.2)])
def test_chips_are_dlibs(dlib, weights, photos, size, tolerance):
    frames, landmarks = [], []
    for photo in photos[:3]:
        resized = Image.fromarray(photo).resize((size, size), Image.Resampling.BICUBIC)
        frames.append(np.array(resized))
        scale = size / 256
        landmarks.append(np.round((dlib.landmarks(photo) + 0.5) * scale - 0.5))
    dlibs = np.stack([dlib.chip(f, p) for f, p in zip(frames, landmarks)])
    ours = jit_chips(np.stack(frames).astype(np.float32), np.stack(landmarks))
    # dlib cuts off to whole numbers: half a grey level on average.
    assert np.abs(ours - dlibs).mean() < tolerance
    same = jit_descriptor(weights, ours) - jit_descriptor(weights, dlibs.astype("f4"))
    assert np.linalg.norm(same, axis=-1).max() < 0.03


def test_chip_follows_any_similarity(dlib):
    """Random, asymmetric landmarks, so that each of the 33 points has its say."""
    rng = np.random.default_rng(3)
    x, y = np.meshgrid(np.arange(250), np.arange(250))
    ramp = np.stack([x, y, 0 * x], -1).astype(np.uint8)  # a pixel tells where it is
    for _ in range(5):
        landmarks = rng.integers(40, 210, (68, 2)).astype(np.float32)
        dlibs = dlib.chip(ramp, landmarks).astype(np.float32)
        ours = np.asarray(jit_chips(ramp[None].astype(np.float32), landmarks[None])[0])
        inside = (dlibs[..., :2] > 0).all(-1) & (ours[..., :2] > 1).all(-1)
        assert np.abs((ours - dlibs)[inside][:, :2] - 0.5).max() < 0.51


def test_black_outside_the_frame():
    landmarks = np.zeros((1, 68, 2), np.float32)
    landmarks[0, face_id._ALIGNED] = face_id._MEAN_FACE * 80 - 30
    chip = np.asarray(jit_chips(np.full((1, 96, 96, 3), 200, np.float32), landmarks))
    assert (chip[0, :20, :20] == 0).all()
    np.testing.assert_allclose(chip[0, 110:, 110:], 200, rtol=1e-5)


@needs_weights
def test_identity_gradient_reaches_the_frame(dlib, weights, photos):
    landmarks = np.stack([dlib.landmarks(p) for p in photos[:2]])
    frames = jnp.asarray(np.stack(photos[:2]), jnp.float32)
    target = jnp.ones(128)

    @jax.jit
    def distance(frames):
        chips = face_id.chips_from_frames(frames, landmarks)
        return ((face_id.descriptor(weights, chips) - target) ** 2).sum()

    gradient = jax.jit(jax.grad(distance))(frames)
    assert jnp.isfinite(gradient).all()
    assert (jnp.abs(gradient).max((1, 2, 3)) > 0).all()
    assert distance(frames - 2 * gradient / jnp.abs(gradient).max()) < distance(frames)


@needs_weights
def test_one_person_is_closer_than_noise(weights, chips):
    noise = np.random.default_rng(4).uniform(0, 255, (1, 150, 150, 3))
    descriptors = jit_descriptor(
        weights, np.concatenate([chips, noise]).astype(np.float32)
    )
    distances = np.linalg.norm(descriptors[1:] - descriptors[0], axis=-1)
    assert distances[:-1].max() < 0.4
    assert distances[-1] > 0.6


@needs_weights
def test_one_person_is_closer_than_another(dlib, weights, chips, samples):
    portraits = ["photo_vox_woman_256", "photo_bw_old_man", "photo_man_dark"]
    others = []
    for name in portraits:
        with Image.open(samples / "portraits" / f"{name}.jpg") as file:
            image = np.array(file.convert("RGB"))
        others.append(dlib.chip(image, dlib.landmarks(image)))
    descriptors = jit_descriptor(
        weights, np.concatenate([chips, np.stack(others)]).astype(np.float32)
    )
    distances = np.linalg.norm(descriptors[1:] - descriptors[0], axis=-1)
    assert distances[: len(chips) - 1].max() < 0.4 < 0.6 < distances[-3:].min()


@needs_weights
@pytest.mark.parametrize("shape", [(64, 64), (128, 150)])
def test_perceptual_network(weights, shape):
    apply, variables = face_id.as_perceptual(weights)
    fake, real = np.random.default_rng(5).uniform(-1, 1, (2, 1, *shape, 3))
    fake, real = jnp.asarray(fake, jnp.float32), jnp.asarray(real, jnp.float32)
    loss = jax.jit(jax.value_and_grad(lambda v, f, r: content(apply, v, f, r), 1))
    value, gradient = loss(variables, fake, real)
    assert value > 0
    assert gradient.shape == fake.shape
    assert jnp.isfinite(gradient).all()
    assert (gradient[0, shape[0] // 2, shape[1] // 2] != 0).any()
    assert (gradient[0, :2] == 0).all()  # outside the central square
    value, gradient = loss(variables, fake, fake)
    assert value == 0
    assert jnp.isfinite(gradient).all()


@needs_weights
def test_perceptual_network_sees_the_chip(weights, chips):
    """On a chip of the right size it is `face_features`: same range, same colours."""
    apply, variables = face_id.as_perceptual(weights, chip_fraction=1.0)
    x = chips[:1].astype(np.float32)
    for ours, direct in zip(
        jax.jit(apply)(variables, x / 127.5 - 1),
        jax.jit(face_id.face_features)(variables, x),
    ):
        np.testing.assert_allclose(ours, direct, atol=1e-3)
    with pytest.raises(ValueError, match="chip_fraction"):
        face_id.as_perceptual(weights, chip_fraction=70)


@needs_weights
@pytest.mark.parametrize("damage", ["cut", "flipped", "longer", "empty", "text"])
def test_broken_weights(tmp_path, damage):
    content = face_id._package_file().read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 4
    path = tmp_path / "weights.dat"
    path.write_bytes(
        {
            "cut": content[:-1000],
            "flipped": bytes(flipped),
            "longer": content + b"\0",
            "empty": b"",
            "text": b"<!DOCTYPE html>\n" * 100,
        }[damage]
    )
    with pytest.raises(InputError) as caught:
        face_id.load_weights(path)
    message = str(caught.value)
    assert str(path) in message
    assert "face_recognition_models" in message
    assert "\n" not in message
    assert caught.value.reason == "bad_weights"


@pytest.mark.parametrize("name", ["", "absent.dat"])
def test_unreadable_weights(tmp_path, name):
    with pytest.raises(InputError, match="cannot be read"):
        face_id.load_weights(tmp_path / name)


def test_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"flax-heads\[data\]") as caught:
        face_id.load_weights()
    assert caught.value.reason == "missing_weights"
