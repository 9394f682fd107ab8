"""Crops and landmark transforms: one convention for preparing, fitting and driving.

Points are (x, y) in pixels; the centre of the top-left pixel is (0, 0). A box is a
square in *edge* coordinates, where that pixel spans [0, 1] x [0, 1]. Every resize is
square to square, so no face ever changes its aspect ratio.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from PIL import Image

# VoxCeleb2's own crops, in fractions of the frame side: the eyes and the mouth lie
# 0.28 apart and their midpoint sits a little below the centre. Boxes around faces in
# other footage follow the same convention, so that a model sees one framing only.
EYES_TO_MOUTH = 0.28
FACE_CENTRE = (0.5, 0.57)

_UPPER = [37, 38, 43, 44, 61, 62, 63]  # lids and inner lips, and what they meet
_LOWER = [41, 40, 47, 46, 67, 66, 65]
RIGHT_EYE, LEFT_EYE, MOUTH = slice(36, 42), slice(42, 48), slice(48, 68)


@dataclasses.dataclass(frozen=True)
class Box:
    """A square in edge coordinates, in pixels of the frame; may reach outside it."""

    left: float
    top: float
    side: float

    def moved_towards(self, other: Box, weight: float) -> Box:
        """The box `weight` of the way (0 = stay, 1 = all of it) to `other`."""
        return Box(
            self.left + weight * (other.left - self.left),
            self.top + weight * (other.top - self.top),
            self.side + weight * (other.side - self.side),
        )


def inter_ocular(landmarks: np.ndarray) -> np.ndarray:
    """Distance between the eyes' centres: [..., 68, 2] -> [...], pixels."""
    right = landmarks[..., RIGHT_EYE, :].mean(-2)
    left = landmarks[..., LEFT_EYE, :].mean(-2)
    return np.linalg.norm(left - right, axis=-1)


def whole_frame(width: int, height: int) -> Box:
    """The largest centred square: footage that is a face crop already."""
    side = min(width, height)
    return Box((width - side) / 2, (height - side) / 2, side)


def head_box(landmarks: np.ndarray) -> Box:
    """The VoxCeleb-like square around one face, from its landmarks [68, 2].

    A turned head brings the eyes together but keeps them as far from the mouth, a
    nodding one the reverse; the larger of the two distances hardly changes with pose.
    """
    eyes = (landmarks[RIGHT_EYE].mean(0) + landmarks[LEFT_EYE].mean(0)) / 2
    mouth = landmarks[MOUTH].mean(0)
    scale = max(np.linalg.norm(mouth - eyes), 1.1 * float(inter_ocular(landmarks)))
    side = float(scale / EYES_TO_MOUTH)
    x, y = (eyes + mouth) / 2 + 0.5
    return Box(float(x - FACE_CENTRE[0] * side), float(y - FACE_CENTRE[1] * side), side)


def follow_head(
    previous: Box | None, landmarks: np.ndarray, seconds: float = 1 / 25
) -> Box:
    """The next box of a clip: glides after the head, jumps when it left the box.

    Causal, so the same boxes come of a file and of a live stream. Small motion of the
    head stays motion inside the crop, which is what a generator must learn.

    Args:
      previous: box, None for the first face.
      landmarks: float [68, 2], in pixels of the frame.
      seconds: since the previous box. In each 25th of one the box goes a tenth of the
        way, whatever the rate of frames.
    """
    box = head_box(landmarks)
    if previous is None:
        return box
    distance = max(abs(box.left - previous.left), abs(box.top - previous.top))
    jumped = distance > 0.5 * previous.side or not 0.6 < box.side / previous.side < 1.6
    return box if jumped else previous.moved_towards(box, 1 - 0.9 ** (25 * seconds))


def crop(image: np.ndarray, box: Box, size: int) -> np.ndarray:
    """Cuts `box` out of uint8 [H, W, 3] and resizes it (bicubic) to [size, size, 3].

    Where the box leaves the image its border pixels are repeated; never zeros, which
    a network would learn as part of the picture.
    """
    height, width, _ = image.shape
    left, top = int(np.floor(box.left)), int(np.floor(box.top))
    right = int(np.ceil(box.left + box.side))
    bottom = int(np.ceil(box.top + box.side))
    rows = np.clip(np.arange(top, bottom), 0, height - 1)
    columns = np.clip(np.arange(left, right), 0, width - 1)
    patch = image[rows[:, None], columns[None, :]]
    offset_x, offset_y = box.left - left, box.top - top
    window = (offset_x, offset_y, offset_x + box.side, offset_y + box.side)
    resized = Image.fromarray(patch).resize(
        (size, size), Image.Resampling.BICUBIC, box=window, reducing_gap=3.0
    )
    return np.asarray(resized)


def sample(frame: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Catmull-Rom samples of a frame, which stay as sharp as it is.

    Beyond the frame its border pixels are repeated, as in `crop`.

    Args:
      frame: uint8 [S, S, 3].
      x, y: float [...], pixels.

    Returns:
      float32 [3, ...] in about 0..255: beside edges it overshoots.
    """
    size = len(frame)
    shape = x.shape
    x, y = (np.clip(v, 0, size - 1).astype(np.float32).ravel() for v in (x, y))
    padded = np.pad(frame, ((1, 2), (1, 2), (0, 0)), "edge")
    stride = size + 3
    planes = padded.transpose(2, 0, 1).reshape(3, -1).astype(np.float32)
    column, row = x.astype(np.intp), y.astype(np.intp)
    corner = row * stride + column
    across, down = _catmull_rom(x - column), _catmull_rom(y - row)
    total = 0
    for j in range(4):
        line = 0
        for i in range(4):
            # Seen from there on, the pixels (i, j) away have the corner's index.
            away = planes[:, j * stride + i :]
            line = line + across[i] * away.take(corner, 1)
        total = total + down[j] * line
    return total.reshape(3, *shape)


def _catmull_rom(t):
    """Weights of the four samples around places t in [0, 1] after the second."""
    t = t.astype(np.float32)
    return (
        t * (-0.5 + t * (1 - 0.5 * t)),
        1 + t * t * (1.5 * t - 2.5),
        t * (0.5 + t * (2 - 1.5 * t)),
        t * t * (0.5 * t - 0.5),
    )


def to_crop(points: np.ndarray, box: Box, size: int) -> np.ndarray:
    """Points [..., 2] of the frame, in pixels of `crop(frame, box, size)`."""
    origin = np.array([box.left, box.top])
    return ((points + 0.5 - origin) * (size / box.side) - 0.5).astype(np.float32)


def resize_points(points: np.ndarray, size: int, new_size: int) -> np.ndarray:
    """Points [..., 2] of a square frame of `size`, in pixels of one of `new_size`."""
    return ((points + 0.5) * (new_size / size) - 0.5).astype(np.float32)


def fit_similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Least-squares rotation, uniform scale and shift that takes source to target.

    Args:
      source, target: [P, 2] points.

    Returns:
      float [2, 3] matrix for `transform`.

    Raises:
      ValueError: the source points coincide, so no similarity is defined.
    """
    source_mean, target_mean = source.mean(0), target.mean(0)
    # As complex numbers a similarity is one multiplication: target = m * source.
    a = (source - source_mean) @ np.array([1, 1j])
    b = (target - target_mean) @ np.array([1, 1j])
    energy = np.vdot(a, a).real
    if energy <= 1e-12:
        raise ValueError("cannot fit a similarity to coinciding points")
    m = np.vdot(a, b) / energy
    linear = np.array([[m.real, -m.imag], [m.imag, m.real]])
    return np.concatenate([linear, (target_mean - linear @ source_mean)[:, None]], 1)


def transform(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Applies a [2, 3] affine matrix to points [..., 2]."""
    return (points @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)


def uncross(landmarks: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Lids and lips that were pushed through each other touch.

    A raster of crossed lips is one of open lips: what should close would open further.

    Args:
      landmarks: float [F, 68, 2].
      reference: float [F, 68, 2]; what is crossed here may be so, as far as it is.

    Returns:
      float [F, 68, 2].
    """
    down = landmarks[:, 8] - landmarks[:, 27]  # from the nose's root to the chin
    length = np.maximum(np.linalg.norm(down, axis=-1, keepdims=True), 1e-6)
    down = (down / length)[:, None]

    def opening(points):  # [F, 7, 1]
        return ((points[:, _LOWER] - points[:, _UPPER]) * down).sum(-1, keepdims=True)

    crossed = np.maximum(np.minimum(opening(reference), 0) - opening(landmarks), 0)
    landmarks = landmarks.copy()
    landmarks[:, _UPPER] -= crossed / 2 * down
    landmarks[:, _LOWER] += crossed / 2 * down
    return landmarks


def fill_gaps(landmarks: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Interpolates frames without a face (NaN) in time; the ends hold. [F, 68, 2].

    In pixels of crops, which followed the face: in the driver's own frames it may have
    come back anywhere.

    For driving only, where the output must keep the driver's length. Training drops
    such frames: a guessed landmark beside a real frame teaches a false pair.
    """
    found = np.isfinite(landmarks).all((1, 2))
    flat = landmarks.reshape(len(landmarks), -1)
    filled = [np.interp(times, times[found], column[found]) for column in flat.T]
    return np.stack(filled, 1).reshape(landmarks.shape).astype(np.float32)


@functools.cache
def interpolation(nodes: int, size: int) -> np.ndarray:
    """Linear interpolation from nodes to pixels as a matrix, float32 [size, nodes].

    The first and the last node lie on the first and the last pixel.
    """
    at = np.linspace(0, nodes - 1, size)
    distance = np.abs(at[:, None] - np.arange(nodes))
    return np.maximum(1 - distance, 0).astype(np.float32)
