"""How far drawn frames are from the true ones: pixels, structure, time, landmarks.

Every function gives one number per frame, so that the caller averages over a video
first and takes its confidence intervals over people (`mean_interval`).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from PIL import Image

from data_pipeline import geometry
from data_pipeline.landmarks import find_faces

# Wang et al. 2004: a Gaussian window of 11 pixels, and the constants of 8-bit frames.
_WINDOW = np.exp(-(np.arange(-5.0, 6.0) ** 2) / (2 * 1.5**2))
_WINDOW /= _WINDOW.sum()
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
# Wang et al. 2003: the weights of the five scales, the finest first.
_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
MS_SSIM_MIN_SIZE = len(_WINDOW) * 2 ** (len(_SCALE_WEIGHTS) - 1)  # 176 pixels

_DETECTION_SIZE = 256  # smaller frames are enlarged to this for the detector


def l1(frames: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Mean absolute difference of frames in [0, 1]. uint8 [F, H, W, 3] -> [F]."""
    return np.abs(_difference(frames, truth)).mean((1, 2, 3)) / 255


def psnr(frames: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio, dB. uint8 [F, H, W, 3] -> [F]; equal frames: inf."""
    squared = np.square(_difference(frames, truth), dtype=np.float64).mean((1, 2, 3))
    with np.errstate(divide="ignore"):
        return 10 * np.log10(255**2 / squared)


def ssim(frames: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Structural similarity of Wang et al. 2004, the mean over R, G and B.

    Gaussian window of 11 pixels (sigma 1.5), biased covariance, and only windows that
    lie inside the frame. Other choices move the number by up to 0.06, so state these
    with it.

    Args:
      frames, truth: uint8 [F, H, W, 3].

    Returns:
      float32 [F], at most 1.

    Raises:
      ValueError: frames of less than 11 pixels, or not the truth's shape or dtype.
    """
    _check(frames, truth)
    if min(frames.shape[1:3]) < len(_WINDOW):
        raise ValueError(
            f"SSIM needs {len(_WINDOW)} pixels a side, got {frames.shape[1:3]}"
        )
    return np.asarray(_ssim(frames, truth))


def ms_ssim(frames: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Multi-scale SSIM of Wang et al. 2003: five scales, the mean over R, G and B.

    A scale is the one before averaged over 2x2 pixels; an odd last row or column is
    dropped. Negative terms count as 0, since they have no power. Frames under
    `MS_SSIM_MIN_SIZE` have fewer scales, which gives another measure: they score NaN.

    Args:
      frames, truth: uint8 [F, H, W, 3].

    Returns:
      float32 [F] in [0, 1].

    Raises:
      ValueError: not the truth's shape or dtype.
    """
    _check(frames, truth)
    if min(frames.shape[1:3]) < MS_SSIM_MIN_SIZE:
        return np.full(len(frames), np.nan, np.float32)
    return np.asarray(_ms_ssim(frames, truth))


def flicker(frames: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Change from frame to frame that the truth does not have, of frames in [0, 1].

    mean |(x̂(t+1) - x̂(t)) - (x(t+1) - x(t))|: a constant error costs nothing.

    Args:
      frames, truth: uint8 [F, H, W, 3], consecutive frames of one clip, in order.

    Returns:
      float [F - 1].
    """
    change = np.diff(_difference(frames, truth), axis=0)
    return np.abs(change).mean((1, 2, 3)) / 255


def landmark_jitter(points: np.ndarray, inter_ocular: np.ndarray) -> np.ndarray:
    """Mean length of the landmarks' second difference over the inter-ocular distance.

    Steady motion costs nothing. Real heads speed up and slow down, and detectors are
    noisy: the number means something beside that of the true frames only.

    Args:
      points: float [F, 68, 2], pixels, of consecutive frames of one clip, in order.
      inter_ocular: float [F], pixels.

    Returns:
      float [F - 2], of the frames that have two neighbours; NaN where a point of the
      three is.
    """
    bend = np.linalg.norm(np.diff(points, n=2, axis=0), axis=-1).mean(-1)
    return bend / inter_ocular[1:-1]


def normalized_mean_error(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Mean distance of the landmarks over the inter-ocular distance of the wanted.

    Args:
      found: float [F, 68, 2], pixels; NaN where no face was found. Report the share of
        such frames beside the mean of the others: a method must not gain by them.
      wanted: float [F, 68, 2], pixels.

    Returns:
      float [F]; NaN where no face was found.
    """
    distance = np.linalg.norm(found - wanted, axis=-1).mean(-1)
    return distance / geometry.inter_ocular(wanted)


def detect_landmarks(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the landmark detector finds on each frame alone; of several faces the
    largest.

    Args:
      frames: uint8 [F, S, S, 3]; under 256 pixels they are enlarged to that first.

    Returns:
      Landmarks float32 [F, 68, 2] in pixels of the frames, NaN without a face; and
      bool [F], whether there was one.

    Raises:
      InputError: dlib or its models are not installed.
    """
    points = np.full((len(frames), 68, 2), np.nan, np.float32)
    for i, frame in enumerate(frames):
        size = len(frame)
        if size < _DETECTION_SIZE:
            large = Image.fromarray(frame).resize(
                (_DETECTION_SIZE, _DETECTION_SIZE), Image.Resampling.BICUBIC
            )
            frame = np.asarray(large)
        if faces := find_faces(frame):
            largest = max(faces, key=lambda face: face.box[2] - face.box[0])
            points[i] = geometry.resize_points(largest.landmarks, len(frame), size)
    return points, np.isfinite(points).all((1, 2))


def _check(frames: np.ndarray, truth: np.ndarray) -> None:
    """The constants of SSIM hold for 8 bits; float frames would score silently wrong."""
    for name, array in (("frames", frames), ("truth", truth)):
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] != 3:
            raise ValueError(
                f"{name} must be uint8 [F, H, W, 3], got {array.dtype} {array.shape}"
            )
    if frames.shape != truth.shape:
        raise ValueError(f"frames {frames.shape} and truth {truth.shape} differ")


def _difference(frames: np.ndarray, truth: np.ndarray) -> np.ndarray:
    _check(frames, truth)
    return np.subtract(frames, truth, dtype=np.int16)


@jax.jit
def _ssim(frames: jax.Array, truth: jax.Array) -> jax.Array:
    """Mean over a frame's windows and channels. [F, H, W, 3] -> [F]."""

    def one(pair):
        luminance, structure = _similarity(*map(_channels_first, pair))
        return (luminance * structure).mean()

    # Frame by frame: the maps of one stay in the processor's cache.
    return jax.lax.map(one, (frames, truth))


@jax.jit
def _ms_ssim(frames: jax.Array, truth: jax.Array) -> jax.Array:
    """Product over scales per channel, mean over channels. [F, H, W, 3] -> [F]."""

    def one(pair):
        x, y = map(_channels_first, pair)  # [3, H, W]
        product = 1.0
        for scale, weight in enumerate(_SCALE_WEIGHTS):
            if scale:
                x, y = _halve(x), _halve(y)
            luminance, structure = _similarity(x, y)
            coarsest = scale == len(_SCALE_WEIGHTS) - 1
            term = luminance * structure if coarsest else structure
            product *= jnp.maximum(term.mean((1, 2)), 0) ** weight  # [3]
        return product.mean()

    return jax.lax.map(one, (frames, truth))


def _channels_first(frame: jax.Array) -> jax.Array:
    return frame.astype(jnp.float32).transpose(2, 0, 1)


def _halve(x: jax.Array) -> jax.Array:
    """Mean of 2x2 pixels of [3, H, W]."""
    c, h, w = x.shape
    x = x[:, : h // 2 * 2, : w // 2 * 2]
    return x.reshape(c, h // 2, 2, w // 2, 2).mean((2, 4))


def _similarity(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Luminance and contrast-structure maps, [3, H - 10, W - 10] each."""
    x_mean, y_mean, square, product = _blur(jnp.stack([x, y, x * x + y * y, x * y]))
    means, mean_square = x_mean * y_mean, x_mean**2 + y_mean**2
    luminance = (2 * means + _C1) / (mean_square + _C1)
    structure = (2 * (product - means) + _C2) / (square - mean_square + _C2)
    return luminance, structure


def _blur(maps: jax.Array) -> jax.Array:
    """Means under the window, where it fits. [4, 3, H, W] -> [4, 3, H - 10, W - 10].

    As sums of slices: exact in float32 on every device, and 20 times as fast as a
    convolution on a CPU.
    """
    for axis in (2, 3):
        size = maps.shape[axis] - len(_WINDOW) + 1
        slices = (
            float(weight) * jax.lax.slice_in_dim(maps, i, i + size, axis=axis)
            for i, weight in enumerate(_WINDOW)
        )
        maps = functools.reduce(jnp.add, slices)
    return maps


def mean_over_people(values: Sequence[float], people: Sequence[str]) -> float | None:
    """Mean of values, one for each video, in which every person counts once."""
    means = _means_of_people(values, people)
    return float(means.mean()) if len(means) else None


def mean_interval(values: Sequence[float], people: Sequence[str]) -> list[float] | None:
    """95 % interval of a mean over people, of whom some may have several videos.

    Student's t over the people's own means: it holds the mean in 95 % of cases however
    unequal their numbers of videos are. (With 8 people a bootstrap of the mean does in
    88 %, with 3 of them in 75 %.)

    Args:
      values: one for each video.
      people: whose video it is.

    Returns:
      [low, high] about `mean_over_people`; None for fewer than two people.
    """
    means = _means_of_people(values, people)
    if (n := len(means)) < 2:
        return None
    half = scipy.stats.t.ppf(0.975, n - 1) * means.std(ddof=1) / np.sqrt(n)
    return [float(means.mean() - half), float(means.mean() + half)]


def _means_of_people(values, people):
    values, people = np.asarray(values, float), np.asarray(people, str)
    return np.array([values[people == name].mean() for name in np.unique(people)])
