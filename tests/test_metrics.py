"""metrics.py against scikit-image, and on what is known exactly."""

import numpy as np
import pytest
import scipy.ndimage
from PIL import Image

from data_pipeline import synthetic
from flax_heads import metrics
from tests.moving_face import face_frame

skimage_metrics = pytest.importorskip("skimage.metrics")

WANG = {
    "gaussian_weights": True,
    "sigma": 1.5,
    "use_sample_covariance": False,
    "data_range": 255,
}


def distorted(height, width):
    """A face, four times, and what was done to it. Two uint8 [4, height, width, 3]."""
    photo = face_frame(max(height, width))[:height, :width]
    noise = np.random.default_rng(0).normal(0, 20, photo.shape)
    noisy = np.clip(photo + noise, 0, 255).astype(np.uint8)
    blurred = scipy.ndimage.gaussian_filter(photo, (2, 2, 0))
    dark = (0.5 * photo).astype(np.uint8)
    shifted = np.roll(photo, 3, axis=1)
    changed = np.stack([noisy, blurred, dark, shifted])
    return changed, np.stack([photo] * 4)


def reference_ms_ssim(x, y):
    """From scikit-image's SSIM maps, in float64, channel by channel."""
    scores = []
    for c in range(3):
        a, b = x[..., c].astype(np.float64), y[..., c].astype(np.float64)
        score = 1.0
        for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
            if scale:
                a, b = (
                    np.mean(
                        [
                            v[i : len(v) // 2 * 2 : 2, j : v.shape[1] // 2 * 2 : 2]
                            for i in (0, 1)
                            for j in (0, 1)
                        ],
                        axis=0,
                    )
                    for v in (a, b)
                )
            _, full = skimage_metrics.structural_similarity(a, b, full=True, **WANG)
            m, n = (scipy.ndimage.gaussian_filter(v, 1.5, truncate=3.5) for v in (a, b))
            if scale < 4:
                full = full * (m * m + n * n + 2.55**2) / (2 * m * n + 2.55**2)
            score *= max(full[5:-5, 5:-5].mean(), 0) ** weight
        scores.append(score)
    return np.mean(scores)


# At 16x20 most windows reach over the border: the crop decides the number.
@pytest.mark.parametrize("size", [(16, 20), (64, 64), (101, 140)])
def test_ssim_is_wangs(size):
    frames, truth = distorted(*size)
    theirs = [
        skimage_metrics.structural_similarity(x, y, channel_axis=-1, **WANG)
        for x, y in zip(frames, truth)
    ]
    ours = metrics.ssim(frames, truth)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_ssim_of_one_window():
    """11 pixels are one window, 10 are none."""
    x, y = np.random.default_rng(1).integers(0, 256, (2, 1, 11, 11, 3), np.uint8)
    offset = np.arange(-5, 6)
    window = np.exp(-np.add.outer(offset**2, offset**2) / 4.5)
    a, b = (v[0].reshape(-1, 3).astype(np.float64) for v in (x, y))
    values = []
    for c in range(3):
        w = window.ravel() / window.sum()
        m, n = w @ a[:, c], w @ b[:, c]
        covariance = np.cov(a[:, c], b[:, c], aweights=w, ddof=0)
        values.append(
            (2 * m * n + 6.5025)
            * (2 * covariance[0, 1] + 58.5225)
            / ((m * m + n * n + 6.5025) * (np.trace(covariance) + 58.5225))
        )
    np.testing.assert_allclose(metrics.ssim(x, y), np.mean(values), atol=1e-5)
    with pytest.raises(ValueError, match="11 pixels"):
        metrics.ssim(x[:, :10], y[:, :10])


@pytest.mark.parametrize("size", [(176, 176), (181, 206)])
def test_ms_ssim_is_wangs(size):
    frames, truth = distorted(*size)
    theirs = [reference_ms_ssim(x, y) for x, y in zip(frames, truth)]
    ours = metrics.ms_ssim(frames, truth)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert 0.1 < ours.min() < ours.max() < 0.99


def test_ms_ssim_of_a_negative_is_zero():
    _, truth = distorted(176, 176)
    np.testing.assert_array_equal(metrics.ms_ssim(255 - truth, truth), 0)


def test_ms_ssim_needs_five_scales():
    frames, truth = distorted(175, 200)
    assert np.isnan(metrics.ms_ssim(frames, truth)).all()


def test_truth_scores_as_truth():
    _, truth = distorted(176, 176)
    np.testing.assert_allclose(metrics.ssim(truth, truth), 1, atol=1e-6)
    np.testing.assert_allclose(metrics.ms_ssim(truth, truth), 1, atol=1e-6)
    assert (metrics.psnr(truth, truth) == np.inf).all()
    assert (metrics.l1(truth, truth) == 0).all()
    assert (metrics.flicker(truth, truth) == 0).all()


def test_pixel_errors():
    truth = np.zeros((2, 8, 8, 3), np.uint8)
    frames = np.stack([truth[0] + np.uint8(51), truth[1] + np.uint8(255)])
    np.testing.assert_allclose(metrics.l1(frames, truth), [0.2, 1])
    # No wrap-around of uint8: the same from the other side.
    np.testing.assert_allclose(metrics.l1(truth, frames), [0.2, 1])
    np.testing.assert_allclose(metrics.psnr(frames, truth), [20 * np.log10(5), 0])
    frames, truth = distorted(40, 50)
    theirs = [
        skimage_metrics.peak_signal_noise_ratio(y, x) for x, y in zip(frames, truth)
    ]
    np.testing.assert_allclose(metrics.psnr(frames, truth), theirs)


@pytest.mark.parametrize(
    "metric", [metrics.l1, metrics.psnr, metrics.ssim, metrics.ms_ssim, metrics.flicker]
)
def test_other_ranges_and_shapes_are_refused(metric):
    frames, truth = distorted(32, 32)
    with pytest.raises(ValueError, match="uint8"):
        metric(frames / 255, truth / 255)
    with pytest.raises(ValueError, match="differ"):
        metric(frames[:1], truth)


def test_flicker_is_change_that_the_truth_lacks():
    rng = np.random.default_rng(2)
    truth = rng.integers(60, 200, (5, 8, 8, 3), np.uint8)
    np.testing.assert_array_equal(metrics.flicker(truth + np.uint8(40), truth), 0)
    blink = np.uint8([0, 51, 0, 51, 51])[:, None, None, None]
    np.testing.assert_allclose(
        metrics.flicker(truth + blink, truth), [0.2, 0.2, 0.2, 0], atol=1e-7
    )


def test_jitter_is_acceleration():
    t = np.arange(6.0)[:, None, None]
    shape = np.random.default_rng(3).uniform(0, 50, (68, 2))
    eyes = np.full(6, 20.0)
    steady = shape + t * [3, 4]
    np.testing.assert_allclose(metrics.landmark_jitter(steady, eyes), 0, atol=1e-12)
    faster = shape + t**2 * [3, 4]  # second difference (6, 8)
    np.testing.assert_allclose(metrics.landmark_jitter(faster, eyes), np.full(4, 0.5))
    # Of the frame between the two differences is the distance.
    growing = metrics.landmark_jitter(faster, np.arange(6.0))
    np.testing.assert_allclose(growing, 10 / np.arange(1, 5))
    faster[0, 30] = np.nan
    assert np.isnan(metrics.landmark_jitter(faster, eyes)).tolist() == [1, 0, 0, 0]


def test_normalized_mean_error():
    wanted = synthetic.landmarks_of(
        synthetic.sample_identity(0), synthetic.neutral_motion(3), 128
    )
    eyes = wanted[0, 42:48].mean(0) - wanted[0, 36:42].mean(0)
    found = wanted + np.float32([3, 4])
    found[1] = np.nan
    error = metrics.normalized_mean_error(found, wanted)
    np.testing.assert_allclose(error[[0, 2]], 5 / np.linalg.norm(eyes), rtol=1e-5)
    assert np.isnan(error[1])
    twice = metrics.normalized_mean_error(2 * found, 2 * wanted)
    np.testing.assert_allclose(twice, error, rtol=1e-5)


def test_detected_landmarks_of_rendered_heads():
    pytest.importorskip("dlib")
    motion = synthetic.sample_motion(4, 2, "talk")
    frames, exact = synthetic.render(synthetic.sample_identity(4), motion, 128)
    points, found = metrics.detect_landmarks(frames)
    assert found.all() and points.dtype == np.float32
    # What remains is the detector's own disagreement with rendered heads.
    assert metrics.normalized_mean_error(points, exact).max() < 0.1


@pytest.mark.parametrize("size", [64, 400])
def test_landmarks_are_in_the_frames_own_pixels(size):
    pytest.importorskip("dlib")
    wanted, _ = metrics.detect_landmarks(face_frame(256)[None])
    points, found = metrics.detect_landmarks(face_frame(size)[None])
    assert found.all()
    points = (points + 0.5) * (256 / size) - 0.5
    assert metrics.normalized_mean_error(points, wanted)[0] < 0.03


def test_frames_without_a_face_are_nan():
    pytest.importorskip("dlib")
    grey = np.full((2, 64, 64, 3), 128, np.uint8)
    points, found = metrics.detect_landmarks(grey)
    assert points.shape == (2, 68, 2)
    assert np.isnan(points).all() and not found.any()


def test_the_largest_face_is_taken():
    """Not the one in the middle, which `find_faces` puts first."""
    pytest.importorskip("dlib")
    scene = np.full((700, 700, 3), 128, np.uint8)
    photo = Image.fromarray(face_frame(256))
    scene[:240, :240] = photo.resize((240, 240))
    scene[245:455, 245:455] = photo.resize((210, 210))
    points, found = metrics.detect_landmarks(scene[None])
    assert found[0] and points[0].max() < 240


@pytest.mark.parametrize("counts", [[3, 3, 3, 3], [20, 1, 1, 1]])
def test_intervals_hold_the_mean_as_often_as_they_say(counts):
    """Few people, and several videos of some, which have much in common."""
    rng = np.random.default_rng(0)
    people = np.repeat(list("abcd"), counts)
    held = []
    for _ in range(2000):
        values = np.repeat(rng.normal(size=4), counts)
        values = values + 0.5 * rng.normal(size=len(people))
        low, high = metrics.mean_interval(values, people)
        held.append(low < 0 < high)
    assert 0.93 < np.mean(held) < 0.97
    assert metrics.mean_interval(values[:1], people[:1]) is None


def test_each_person_counts_once():
    assert metrics.mean_over_people([1, 1, 1, 4], list("aaab")) == 2.5
    assert metrics.mean_over_people([], []) is None
