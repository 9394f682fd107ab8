"""What a network must beat: pictures made of the source photos without learning.

The nearest photo and the warped one show how much of a score is the person, the
background and the framing alone; the mean photo, how much an L1 or SSIM rewards blur.
"""

from __future__ import annotations

import numpy as np
import scipy.ndimage
import scipy.spatial

_EDGE = 1e-9  # a pixel on the edge of two triangles must lie in one


def nearest_frame(
    source_frames: np.ndarray,
    source_landmarks: np.ndarray,
    target_landmarks: np.ndarray,
) -> np.ndarray:
    """For every target the source photo whose landmarks are nearest, as it is.

    By the sum of squared distances in pixels: where in the frame the face is counts
    too, as it does for every score of pixels.

    Args:
      source_frames: uint8 [T, H, W, 3].
      source_landmarks: float [T, 68, 2], pixels.
      target_landmarks: float [F, 68, 2], pixels.

    Returns:
      uint8 [F, H, W, 3].
    """
    return source_frames[_nearest(source_landmarks, target_landmarks)]


def mean_frame(source_frames: np.ndarray, num_frames: int) -> np.ndarray:
    """The mean of the photos, for every target. uint8 [T, H, W, 3] -> [F, H, W, 3]."""
    mean = np.rint(source_frames.mean(0)).astype(np.uint8)
    return np.repeat(mean[None], num_frames, axis=0)


def piecewise_affine_warp(
    source_frames: np.ndarray,
    source_landmarks: np.ndarray,
    target_landmarks: np.ndarray,
) -> np.ndarray:
    """The nearest source photo with its landmarks moved to the target's.

    Delaunay triangles between the target's 68 points and eight fixed ones, the corners
    and the middles of the frame's sides; each is an affine image of its triangle in the
    photo. What the photo hides, such as the inside of a shut mouth, is stretched.

    Args and returns: as `nearest_frame`.
    """
    _, height, width, _ = source_frames.shape
    right, bottom = width - 0.5, height - 0.5  # no pixel's centre lies on the border
    x, y = (width - 1) / 2, (height - 1) / 2
    border = np.array(
        [
            *[(-0.5, -0.5), (x, -0.5), (right, -0.5), (right, y)],
            *[(right, bottom), (x, bottom), (-0.5, bottom), (-0.5, y)],
        ]
    )
    rows, columns = np.mgrid[:height, :width]
    nearest = _nearest(source_landmarks, target_landmarks)
    warped = np.empty((len(nearest), height, width, 3), np.uint8)
    for f, (s, target) in enumerate(zip(nearest, target_landmarks)):
        moved = _interpolate(
            np.concatenate([target, border]),
            np.concatenate([source_landmarks[s] - target, np.zeros_like(border)]),
            height,
            width,
        )
        places = [rows + moved[..., 1], columns + moved[..., 0]]
        for c in range(3):
            warped[f, ..., c] = np.rint(
                scipy.ndimage.map_coordinates(
                    source_frames[s, ..., c],
                    places,
                    output=np.float32,
                    order=1,
                    mode="nearest",
                )
            )
    return warped


def _nearest(source_landmarks, target_landmarks) -> np.ndarray:
    """Index of the photo for every target. [T, 68, 2], [F, 68, 2] -> int [F]."""
    difference = target_landmarks[:, None] - source_landmarks[None]
    return np.square(difference).sum((2, 3)).argmin(1)


def _interpolate(
    points: np.ndarray, values: np.ndarray, height: int, width: int
) -> np.ndarray:
    """Values [P, 2] at points [P, 2], linear in each Delaunay triangle, at all pixels.

    As SciPy's `LinearNDInterpolator`, which solves for every triangle in a threaded
    BLAS: on a machine with other work that took up to half a second a frame, this 6 ms.
    Pixels in no triangle get 0.

    Returns:
      float64 [H, W, 2].
    """
    out = np.zeros((height, width, 2))
    triangles = scipy.spatial.Delaunay(points).simplices
    for (p, q, r), (at_p, at_q, at_r) in zip(points[triangles], values[triangles]):
        left, top = np.ceil(np.minimum(np.minimum(p, q), r)).astype(int).clip(0)
        right, bottom = np.floor(np.maximum(np.maximum(p, q), r)).astype(int) + 1
        (a, b), (c, d) = q - p, r - p
        area = a * d - b * c
        if area == 0:
            continue  # its neighbours hold its pixels
        x = np.arange(left, min(right, width)) - p[0]  # [w]
        y = np.arange(top, min(bottom, height))[:, None] - p[1]  # [h, 1]
        u, v = (d * x - c * y) / area, (a * y - b * x) / area  # [h, w]
        inside = (u >= -_EDGE) & (v >= -_EDGE) & (u + v <= 1 + _EDGE)
        u, v = u[inside, None], v[inside, None]
        place = out[top : top + len(y), left : left + len(x)]
        place[inside] = at_p + u * (at_q - at_p) + v * (at_r - at_p)
    return out
