"""More pictures of a person out of few: photos warped along plausible motion.

One photo says nothing of how a face moves, and a generator tuned on it alone learns to
repeat it. Here the photo's landmarks take on the poses and expressions of rendered heads,
by the 3-D model that drives a person as well, and the photo follows: by a smooth warp,
but for lids and lips (`lids_and_lips`). What a turned head hid is not made up: the
skin beside it is stretched over its place.
"""

from __future__ import annotations

import numpy as np

from data_pipeline import face_model, geometry, lids_and_lips, synthetic

# How much of the rendered heads' motion is used: a flat warp cannot follow a turn far.
_MOTION = {"yaw": 0.5, "pitch": 0.5, "roll": 0.5, "mouth_open": 0.8}
_ANGLES = ("yaw", "pitch", "roll")
_FARTHEST = {"yaw": 0.6, "pitch": 0.3}  # radians; photos may be turned farther
_BLINKS = 0.3  # share of the copies, at least
_STIFFNESS = 3e-4  # smoothing of the warp
_LEAST_AREA = 0.1  # of the photo, shown by a cell of the grid beside the median cell
_PARTS = (1, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 0)  # of a motion that folds the picture
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
    mouth = lids_and_lips.inside_of(photo, landmarks)
    for moved in _move(landmarks, rng, seed, count):
        matrix = _random_similarity(rng, size)
        warped, places = _warp(photo, landmarks, moved, matrix, mouth)
        photos.append(warped)
        points.append(places)
    return (
        np.array(photos, np.uint8).reshape(count, size, size, 3),
        np.array(points, np.float32).reshape(count, 68, 2),
    )


def _move(landmarks, rng, seed, count):
    """The photo's landmarks in poses and expressions of rendered people. [count, 68, 2].

    The poses are turned on from the photo's own, of whose expression a random share stays.
    A turn that would end too far goes the other way.
    """
    own = face_model.angles(face_model.fit(landmarks[None]).rotation)[0]
    changes, angles = np.empty((count, 68, 3)), np.empty((count, 3))
    blinks = np.sqrt(rng.uniform(size=count)) * (rng.uniform(size=count) < _BLINKS)
    for person in range(min(_PEOPLE, count)):  # all of one's at once: building is slow
        indices = np.arange(person, count, _PEOPLE)
        poses = [synthetic.sample_poses(seed + int(i), 1) for i in indices]
        motion = {
            name: _MOTION.get(name, 1) * np.concatenate([pose[name] for pose in poses])
            for name in poses[0]
        }
        motion["blink"] = np.maximum(motion["blink"], blinks[indices])
        still = synthetic.neutral_motion()
        for name, angle in zip(_ANGLES, own):
            still[name] += angle
            farthest = max(abs(angle), _FARTHEST.get(name, np.inf))
            back = np.abs(angle + motion[name]) > farthest
            turn = np.where(back, -np.sign(angle) * np.abs(motion[name]), motion[name])
            motion[name] = np.clip(angle + turn, -farthest, farthest)
        identity = synthetic.sample_identity(person)
        (rest,) = synthetic.points_of(identity, still)
        changes[indices] = synthetic.points_of(identity, motion) - rest
        angles[indices] = np.stack([motion[name] for name in _ANGLES], 1)
    rotations, kept = face_model.turned(angles), rng.uniform(size=count)
    moved = face_model.move(landmarks, changes, rotations, kept)
    return geometry.uncross(moved, np.broadcast_to(landmarks, moved.shape))


def _random_similarity(rng, size):
    """A small rotation, zoom and shift about the frame's centre. [2, 3]."""
    angle, zoom = rng.normal(0, _ROTATION), np.exp(rng.normal(0, _ZOOM))
    linear = zoom * np.array(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    )
    centre = np.full(2, (size - 1) / 2)
    shift = centre - linear @ centre + rng.normal(0, _SHIFT * size, 2)
    return np.concatenate([linear, shift[:, None]], 1)


def _warp(photo, source, target, matrix, mouth):
    """Moves `source` points of the photo to `target`, then applies `matrix`.

    A motion that would fold the picture is halved until it does not.

    Returns:
      uint8 [S, S, 3], and where the points are in it, float32 [68, 2].
    """
    size = len(photo)
    # Which place of the warped frame does each node of a grid over the output show?
    grid = np.linspace(0, size - 1, _NODES)
    nodes = np.stack(np.meshgrid(grid, grid), -1).reshape(-1, 2)
    inverse = np.linalg.inv(matrix[:, :2])
    nodes = (nodes - matrix[:, 2]) @ inverse.T
    for part in _PARTS:
        reached = source + part * (target - source)
        planes, smooth = _smooth_warp(nodes, source, reached, size)
        if not _folds(planes):
            break
    weights = geometry.interpolation(_NODES, size)
    places = weights @ planes @ weights.T
    picture = lids_and_lips.warp(photo, source, places, reached, smooth, mouth)
    return picture, geometry.transform(reached, matrix)


def _smooth_warp(nodes, source, target, size):
    """Places in the photo of nodes and of targets: [2, n, n] and [68, 2]."""
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
    pinned = np.delete(np.arange(68), lids_and_lips.LANDMARKS)
    knots = np.concatenate([target[pinned], anchors]) / size
    offsets = np.concatenate([(source - target)[pinned], np.zeros_like(anchors)])
    points = np.concatenate([nodes, target])
    points = points + _thin_plate(knots, offsets, points / size)
    return points[:-68].T.reshape(2, _NODES, _NODES), points[-68:]


def _folds(planes):
    """Whether some cell of the grid [2, n, n] comes from next to nothing, or mirrored."""
    across, down = np.diff(planes, axis=2)[:, :-1], np.diff(planes, axis=1)[:, :, :-1]
    area = across[0] * down[1] - across[1] * down[0]
    return (area < _LEAST_AREA * np.median(area)).any()


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
