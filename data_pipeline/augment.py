"""More pictures of a person out of few: photos warped along plausible motion.

One photo says nothing of how a face moves, and a generator tuned on it alone learns to
repeat it. Here the motion of rendered heads is transferred to the photo's landmarks, and
the photo follows by a smooth warp. Nothing that was hidden appears: a warp can turn a head
a little and move a mouth, not show its inside.
"""

from __future__ import annotations

import numpy as np

from data_pipeline import geometry, synthetic

# How much of the rendered heads' motion is used: a flat warp cannot follow a turn far, and
# a mouth that it opens shows stretched lips.
_MOTION = {"yaw": 0.5, "pitch": 0.5, "roll": 0.5, "mouth_open": 0.5}
_STIFFNESS = 1e-3  # smoothing of the warp, so that touching landmarks cannot fold it
_ANCHORS = 5  # points that stay, along every side of the frame
_NODES = 49  # along each side of the grid on which the warp is computed
_PEOPLE = 8  # rendered people whose motion is used
_HELD_OUT = 1_000_000  # added to the seed of pictures that are not trained on
# Standard deviations; the shift of a side. With more, backgrounds learn to follow faces.
_ROTATION, _ZOOM, _SHIFT = 0.0424, 0.0212, 0.0141


def augment(
    photo: np.ndarray, landmarks: np.ndarray, count: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Warps one photo into `count` plausible others.

    Args:
      photo: uint8 [S, S, 3].
      landmarks: float [68, 2], pixels of the photo.
      count: how many to make.
      seed: the same seed gives the same pictures; the motions are those of the seeds
        from it to `seed + count - 1`.

    Returns:
      uint8 [count, S, S, 3], and their landmarks, float32 [count, 68, 2].
    """
    rng = np.random.default_rng((seed, count))
    size = len(photo)
    photos, points = [], []
    for moved in _move(landmarks, seed, count):
        matrix = _random_similarity(rng, size)
        photos.append(_warp(photo, landmarks, moved, matrix))
        points.append(geometry.transform(moved, matrix))
    return (
        np.array(photos, np.uint8).reshape(count, size, size, 3),
        np.array(points, np.float32).reshape(count, 68, 2),
    )


def _move(landmarks, seed, count):
    """The photo's landmarks after random motions of rendered people. [count, 68, 2]."""
    neutral = synthetic.neutral_motion()
    moved = np.empty((count, 68, 2))
    for person in range(min(_PEOPLE, count)):  # all of one's at once: building is slow
        indices = range(person, count, _PEOPLE)
        motions = [neutral, *(synthetic.sample_poses(seed + i, 1) for i in indices)]
        motion = {
            # `_random_similarity` does these.
            name: np.repeat(neutral[name], len(motions))
            if name in ("shift_x", "shift_y", "zoom")
            else _MOTION.get(name, 1) * np.concatenate([m[name] for m in motions])
            for name in neutral
        }
        identity = synthetic.sample_identity(person)
        rest, *points = synthetic.landmarks_of(identity, motion, 256)
        for i, p in zip(indices, points):
            moved[i] = geometry.transfer_motion(p, rest, landmarks)
    return moved


def _random_similarity(rng, size):
    """A small rotation, zoom and shift about the frame's centre. [2, 3]."""
    angle, zoom = rng.normal(0, _ROTATION), np.exp(rng.normal(0, _ZOOM))
    linear = zoom * np.array(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    )
    centre = np.full(2, (size - 1) / 2)
    shift = centre - linear @ centre + rng.normal(0, _SHIFT * size, 2)
    return np.concatenate([linear, shift[:, None]], 1)


def _warp(photo, source, target, matrix):
    """Moves `source` points of the photo to `target`, then applies `matrix`."""
    size = len(photo)
    # Which place of the warped frame does each node of a grid over the output show?
    grid = np.linspace(0, size - 1, _NODES)
    nodes = np.stack(np.meshgrid(grid, grid), -1).reshape(-1, 2)
    inverse = np.linalg.inv(matrix[:, :2])
    places = (nodes - matrix[:, 2]) @ inverse.T
    side = np.linspace(0, size - 1, _ANCHORS)
    edge = np.zeros(_ANCHORS)
    anchors = np.concatenate(
        [
            np.stack([side, edge], 1),
            np.stack([side, edge + size - 1], 1),
            np.stack([edge, side], 1)[1:-1],
            np.stack([edge + size - 1, side], 1)[1:-1],
        ]
    )
    knots = np.concatenate([target, anchors]) / size
    offsets = np.concatenate([source - target, np.zeros_like(anchors)])
    places = places + _thin_plate(knots, offsets, places / size)
    planes = places.T.reshape(2, _NODES, _NODES)
    weights = geometry.interpolation(_NODES, size)
    colours = geometry.sample(photo, *(weights @ planes @ weights.T))
    colours = colours.transpose(1, 2, 0)
    return np.clip(colours + 0.5, 0, 255).astype(np.uint8)


def _thin_plate(knots, values, points):
    """Thin-plate spline through (knots [n, 2], values [n, 2]), at points [p, 2]."""

    def bending(a, b):
        squared = np.square(a[:, None] - b[None]).sum(-1)
        return squared * np.log(squared + 1e-12)

    n = len(knots)
    system = np.zeros((n + 3, n + 3))
    system[:n, :n] = bending(knots, knots) + _STIFFNESS * np.eye(n)
    system[:n, n] = system[n, :n] = 1
    system[:n, n + 1 :] = knots
    system[n + 1 :, :n] = knots.T
    solution = np.linalg.solve(system, np.concatenate([values, np.zeros((3, 2))]))
    affine = solution[n] + points @ solution[n + 1 :]
    return bending(points, knots) @ solution[:n] + affine


def augment_all(
    photos: np.ndarray, landmarks: np.ndarray, count: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """About `count` warped pictures shared out over T photos, and the photos themselves.

    The photos are repeated, for what was really seen weighs more than what was made of
    it: until one is a quarter of the result, and three or more are half of it.

    Args:
      photos, landmarks: uint8 [T, S, S, 3], float [T, 68, 2].
      count: of warped pictures; 0 returns the photos alone.
      seed: see `augment`.
    """
    if not count:
        return photos, landmarks
    share = -(-count // len(photos))
    made = [
        augment(p, q, share, seed + t * share)
        for t, (p, q) in enumerate(zip(photos, landmarks))
    ]
    repeats = min(share, -(-count // 3))
    return (
        np.concatenate([np.repeat(photos, repeats, 0), *(p for p, _ in made)]),
        np.concatenate([np.repeat(landmarks, repeats, 0), *(q for _, q in made)]),
    )


def augment_held_out(
    photos: np.ndarray, landmarks: np.ndarray, count: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """`count` warped pictures, evenly of the T photos, that `augment_all` never makes.

    Args:
      photos, landmarks: uint8 [T, S, S, 3], float [T, 68, 2].
      count: of warped pictures.
      seed: as for `augment_all`.
    """
    shares = np.bincount(np.arange(count) * len(photos) // count)
    starts = seed + _HELD_OUT + np.cumsum(shares) - shares
    made = [
        augment(photos[t], landmarks[t], share, int(start))
        for t, (share, start) in enumerate(zip(shares, starts))
        if share
    ]
    return tuple(np.concatenate(parts) for parts in zip(*made))
