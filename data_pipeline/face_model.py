"""A 3-D model of the 68 landmarks: one face's pose, shape and expression told apart.

    python -m data_pipeline.face_model    # makes face_model.npz again, from rendered heads

Landmarks are mean + identity + motion, both linear, turned, and seen by a camera at a
fixed distance. Fitted to two people, the model puts one's face into the other's motion:
the paper's stated limit is that another person's landmarks carry that person's face
shape.
"""

from __future__ import annotations

import functools
import pathlib
from typing import NamedTuple

import numpy as np

from data_pipeline import geometry, synthetic
from data_pipeline.synthetic_frame import CAMERA

_FILE = pathlib.Path(__file__).with_name("face_model.npz")
_PEOPLE, _POSES, _SEED = 400, 16, 7_000_000
_IDENTITY, _MOTION = 25, 15  # components: all but 1 % and 0.4 % of the eyes' distance
_NOISE = 0.08  # of landmarks, as a share of the eyes' distance: dlib's and the model's
_ITERATIONS = 6
_MOST_FRAMES = 40  # of a clip, that decide about the identity
_CHUNK = 40  # frames that are solved at once: memory
_ALIKE = 0.1  # radians that count as much as the usual difference of two expressions
_LIPS = 0.05  # decimetres between the lips that count so
_UPPER_LIP, _LOWER_LIP = slice(61, 64), slice(65, 68)  # inner
_TOWARDS_PHOTOS = 1 / 3  # down the frame
_POSE = 6  # turn (3), logarithm of the scale, place (2)


class FaceModel(NamedTuple):
    """Decimetres, around the point on which the head turns; x right, y down, z to us.

    Attributes:
      mean: float [68, 3].
      identity: float [25, 68, 3], away from it, for coefficients of mean square 1.
      motion: float [15, 68, 3], away from a face at rest, likewise.
    """

    mean: np.ndarray
    identity: np.ndarray
    motion: np.ndarray


class Faces(NamedTuple):
    """One person's face in F frames, as the model sees it.

    Attributes:
      identity: float [25].
      motion: float [F, 15].
      rotation: float [F, 3, 3], from the head to the camera.
      scale: float [F], pixels for a decimetre.
      place: float [F, 2], of the point on which the head turns, pixels.
    """

    identity: np.ndarray
    motion: np.ndarray
    rotation: np.ndarray
    scale: np.ndarray
    place: np.ndarray


def transfer(sources: np.ndarray, driver: np.ndarray, *, relative: bool) -> np.ndarray:
    """The source's face in the driver's pose and expression, or in its motion.

    The shape and the size of the face are the source's. What the model leaves
    unexplained is kept: the source's, and the driver's change of it.

    Args:
      sources: float [T, 68, 2], of the person's photos.
      driver: float [F, 68, 2], finite, in crops of the same size.
      relative: whether only what changes in the driver's face and pose is taken, on
        from the photo that is most like one of the driver's frames. Otherwise pose and
        expression are the driver's as they are, and so is the head's place in the crop,
        but for a third of the way up or down to where the photos have it: sideways a
        place says how the head was turned, not whose it is.

    Returns:
      float32 [F, 68, 2], in pixels of the person's crops.
    """
    person, faces = fit(sources), fit(driver)
    of_person, of_driver = _unexplained(person, sources), _unexplained(faces, driver)
    moved = faces._replace(identity=person.identity)
    if relative:
        sound = _sound(faces, of_driver)
        t, f = _same_pose(person, faces, sound)
        g = _same_expression(person.motion[t], faces, sound)
        larger = person.scale[t] / faces.scale[f]
        moved = moved._replace(
            motion=person.motion[t] + faces.motion - faces.motion[g],
            rotation=person.rotation[t] @ faces.rotation[f].T @ faces.rotation,
            scale=faces.scale * larger,
            place=person.place[t] + (faces.place - faces.place[f]) * larger,
        )
        details = of_person[t] + of_driver - of_driver[g]
    else:
        larger = np.exp(np.log(person.scale).mean() - np.log(faces.scale).mean())
        shift = _TOWARDS_PHOTOS * (person.place.mean(0) - faces.place.mean(0))
        place = faces.place + [0, shift[1]]
        moved = moved._replace(scale=faces.scale * larger, place=place)
        details = of_person.mean(0) + of_driver - of_driver.mean(0)
    return _with_details(moved, details)


def move(
    landmarks: np.ndarray, changes: np.ndarray, rotations: np.ndarray, kept: np.ndarray
) -> np.ndarray:
    """One face in other poses and expressions; the point on which it turns stays.

    Args:
      landmarks: float [68, 2], pixels.
      changes: float [F, 68, 3], of the expression: how points move on the head,
        decimetres.
      rotations: float [F, 3, 3], from the head to the camera, in place of the face's.
      kept: float [F], how much of the face's own expression stays, from 0 to 1.

    Returns:
      float32 [F, 68, 2], pixels.
    """
    face = fit(landmarks[None])
    basis = load().motion.reshape(_MOTION, -1)
    motion = changes.reshape(len(changes), -1) @ np.linalg.pinv(basis)
    moved = face._replace(
        motion=kept[:, None] * face.motion + motion, rotation=rotations
    )
    return _with_details(moved, _unexplained(face, landmarks[None]))


def _with_details(faces, details):
    """What the camera sees of faces and of what the model misses. float32 [F, 68, 2]."""
    in_frame = faces.scale[:, None, None] * details @ _upright(faces.rotation)
    return (project(faces) + in_frame).astype(np.float32)


def _sound(faces, unexplained):
    """Frames to start from, bool [F]: not those where the landmarks slipped."""
    missed = np.abs(unexplained).mean((1, 2))
    size = np.abs(np.log(faces.scale / np.median(faces.scale)))
    sound = (missed <= 3 * np.median(missed)) & (size < np.log(1.6))
    return sound if sound.any() else ~sound


def _same_pose(person, faces, sound):
    """The photo and the driver's frame (t, f) most alike, above all in their poses."""
    between = np.einsum("tij,fij->tf", person.rotation, faces.rotation)  # traces
    turns = np.arccos(np.clip((between - 1) / 2, -1, 1)) / _ALIKE
    motions = person.motion[:, None] - faces.motion
    apart = np.square(turns) + np.square(motions).mean(-1)
    apart = np.where(sound, apart, np.inf)
    return np.unravel_index(apart.argmin(), apart.shape)


def _same_expression(motion, faces, sound):
    """The driver's frame most like `motion` [15], above all in how the lips are open."""
    change = motion - faces.motion
    down = load().motion[:, :, 1]
    opening = down[:, _LOWER_LIP].mean(1) - down[:, _UPPER_LIP].mean(1)
    apart = np.square(change).mean(-1) + np.square(change @ opening / _LIPS)
    return np.where(sound, apart, np.inf).argmin()


def fit(landmarks: np.ndarray) -> Faces:
    """The most probable face, by damped Gauss-Newton.

    Frames spread over the clip decide together about the identity, which all share.

    Args:
      landmarks: float [F, 68, 2], finite; pixels.
    """
    landmarks = landmarks.astype(float)
    few = np.unique(np.linspace(0, len(landmarks) - 1, _MOST_FRAMES).astype(int))
    faces = _start(landmarks[few])
    for _ in range(_ITERATIONS):
        faces = _improve(faces, landmarks[few], same_identity=False)
    if len(few) == len(landmarks):
        return faces
    parts = []
    for i in range(0, len(landmarks), _CHUNK):
        part = landmarks[i : i + _CHUNK]
        every = _start(part)._replace(identity=faces.identity)
        for _ in range(_ITERATIONS):
            every = _improve(every, part, same_identity=True)
        parts.append(every)
    joined = [np.concatenate(values) for values in list(zip(*parts))[1:]]
    return Faces(faces.identity, *joined)


def project(faces: Faces) -> np.ndarray:
    """Landmarks as the camera sees them, float [F, 68, 2], pixels."""
    turned = _shape(faces) @ faces.rotation.swapaxes(1, 2)
    larger = (faces.scale[:, None] * CAMERA) / (CAMERA - turned[..., 2])
    return larger[..., None] * turned[..., :2] + faces.place[:, None]


def _shape(faces):
    """In the head's own frame, [F, 68, 3]."""
    model = load()
    shape = model.mean + np.tensordot(faces.identity, model.identity, 1)
    return shape + np.tensordot(faces.motion, model.motion, 1)


def _unexplained(faces, landmarks):
    """What the model misses, upright and in decimetres. [F, 68, 2]."""
    missed = (landmarks - project(faces)) / faces.scale[:, None, None]
    return missed @ _upright(faces.rotation).swapaxes(1, 2)


def _upright(rotation):
    """Matrices [F, 2, 2] that turn rows (x, y) of an upright head by the head's roll."""
    roll = np.arctan2(rotation[:, 1, 0], rotation[:, 0, 0])
    cos, sin = np.cos(roll), np.sin(roll)
    return np.stack([cos, sin, -sin, cos], -1).reshape(-1, 2, 2)


def _start(landmarks):
    """The mean face, frontal, laid over each frame by a similarity."""
    model, count = load(), len(landmarks)
    flat = model.mean[:, :2]
    fits = np.stack([geometry.fit_similarity(flat, points) for points in landmarks])
    angle = np.arctan2(fits[:, 1, 0], fits[:, 0, 0])
    return Faces(
        identity=np.zeros(len(model.identity)),
        motion=np.zeros((count, len(model.motion))),
        rotation=_rotations(angle[:, None] * [0, 0, 1]),
        scale=np.maximum(np.hypot(fits[:, 0, 0], fits[:, 1, 0]), 1e-3),
        place=fits[:, :, 2],
    )


def _improve(faces, landmarks, same_identity):
    """One step of Gauss-Newton; the identity's normal equations are a Schur complement."""
    missed, own, shared = _linearize(faces, landmarks, not same_identity)
    # Motion and identity are standard normal beforehand; pose can be anything.
    prior = np.r_[np.full(_POSE, 1e-6), np.ones(own.shape[-1] - _POSE)]
    known = np.concatenate([np.zeros((len(landmarks), _POSE)), faces.motion], 1)
    normal = own.swapaxes(1, 2) @ own + np.diag(prior)
    pull = np.einsum("fnk,fn->fk", own, missed) - known
    step = np.linalg.solve(normal, pull[..., None])[..., 0]  # [F, 21]
    identity = faces.identity
    if not same_identity:
        mixed = own.swapaxes(1, 2) @ shared  # [F, 21, 25]
        follows = np.linalg.solve(normal, mixed)
        schur = np.einsum("fnk,fnl->kl", shared, shared) + np.eye(len(identity))
        schur -= np.einsum("fki,fkj->ij", mixed, follows)
        pull = np.einsum("fnk,fn->k", shared, missed) - identity
        pull -= np.einsum("fki,fk->i", mixed, step)
        change = np.linalg.solve(schur, pull)
        change /= max(1, np.linalg.norm(change) / 2)
        identity = identity + change
        step = step - follows @ change
    turn = step[:, :3]
    turn = turn / np.maximum(1, np.linalg.norm(turn, axis=1, keepdims=True) / 0.5)
    return Faces(
        identity=identity,
        motion=faces.motion + np.clip(step[:, _POSE:], -1, 1),
        rotation=_rotations(turn) @ faces.rotation,
        scale=faces.scale * np.exp(np.clip(step[:, 3], -0.3, 0.3)),
        place=faces.place + step[:, 4:_POSE],
    )


def _linearize(faces, landmarks, with_identity):
    """In units of the noise: what is missed [F, 136], and how the model's points move.

    The slopes are by pose and motion [F, 136, 6 + 15], and by identity [F, 136, 25 or 0].
    """
    model = load()
    frames, mean = len(landmarks), model.mean
    turned = _shape(faces) @ faces.rotation.swapaxes(1, 2)  # [F, 68, 3]
    x, y, z = np.moveaxis(turned, -1, 0)
    larger = faces.scale[:, None] * CAMERA / (CAMERA - z)
    none, nearer = np.zeros_like(x), 1 / (CAMERA - z)
    # By the point in the camera's frame, [F, 68, 2, 3]; then by the turn of the head.
    rows = [[1 + none, none, x * nearer], [none, 1 + none, y * nearer]]
    by_point = np.stack([np.stack(row, -1) for row in rows], -2)
    by_point *= larger[..., None, None]
    cross = [[none, z, -y], [-z, none, x], [y, -x, none]]
    by_turn = by_point @ np.stack([np.stack(row, -1) for row in cross], -2)
    by_scale = (larger[..., None] * turned[..., :2])[..., None]
    by_place = np.broadcast_to(np.eye(2), (frames, 68, 2, 2))
    identity = model.identity if with_identity else model.identity[:0]
    basis = np.concatenate([model.motion, identity])
    by_shape = by_point @ np.einsum("fij,kpj->fpik", faces.rotation, basis)
    slopes = np.concatenate([by_turn, by_scale, by_place, by_shape], -1)
    missed = landmarks - by_scale[..., 0] - faces.place[:, None]
    eyes = geometry.inter_ocular(mean[:, :2])
    unit = (_NOISE * eyes * faces.scale)[:, None, None]
    slopes = (slopes / unit[..., None]).reshape(frames, 2 * 68, slopes.shape[-1])
    own, shared = np.split(slopes, [_POSE + len(model.motion)], -1)
    return (missed / unit).reshape(frames, -1), own, shared


def angles(rotations: np.ndarray) -> np.ndarray:
    """Yaw, pitch and roll of rotations [F, 3, 3], as in `synthetic_motion`. [F, 3]."""
    pitch = np.arcsin(np.clip(-rotations[:, 2, 1], -1, 1))
    yaw = np.arctan2(-rotations[:, 2, 0], rotations[:, 2, 2])
    roll = np.arctan2(-rotations[:, 0, 1], rotations[:, 1, 1])
    return np.stack([yaw, pitch, roll], 1)


def turned(yaw_pitch_roll: np.ndarray) -> np.ndarray:
    """The inverse of `angles`. float [F, 3], radians -> [F, 3, 3]."""
    yaw, pitch, roll = (
        _rotations(angle[:, None] * axis)
        for angle, axis in zip(yaw_pitch_roll.T, ([0, 1, 0], [-1, 0, 0], [0, 0, 1]))
    )
    return roll @ pitch @ yaw


def _rotations(turns):
    """Rotation vectors [F, 3], radians -> matrices [F, 3, 3] (Rodrigues)."""
    angle = np.maximum(np.linalg.norm(turns, axis=1), 1e-12)[:, None, None]
    x, y, z = turns.T
    none = np.zeros_like(x)
    cross = np.stack([none, -z, y, z, none, -x, -y, x, none], -1).reshape(-1, 3, 3)
    straight = np.sin(angle) / angle * cross
    return np.eye(3) + straight + (1 - np.cos(angle)) / angle**2 * (cross @ cross)


@functools.cache
def load() -> FaceModel:
    """The model that comes with the package."""
    with np.load(_FILE, allow_pickle=False) as arrays:
        return FaceModel(*(arrays[name].astype(float) for name in FaceModel._fields))


def build(num_people: int = _PEOPLE) -> FaceModel:
    """Principal components of rendered heads: between people, and of one's motion."""
    still, moved = [], []
    for seed in range(_SEED, _SEED + num_people):
        identity = synthetic.sample_identity(seed)
        rest = synthetic.points_of(identity, synthetic.neutral_motion())[0]
        still.append(rest)
        moved.append(
            synthetic.points_of(identity, synthetic.sample_poses(seed, _POSES)) - rest
        )
    mean = np.mean(still, 0)
    return FaceModel(
        mean=mean,
        identity=_components(np.array(still) - mean, _IDENTITY),
        motion=_components(np.concatenate(moved), _MOTION),
    )


def _components(changes, count):
    """The first principal components of [N, 68, 3], each its root mean square."""
    _, deviations, directions = np.linalg.svd(changes.reshape(len(changes), -1), False)
    scaled = directions[:count] * (deviations[:count, None] / np.sqrt(len(changes)))
    return scaled.reshape(-1, 68, 3)


if __name__ == "__main__":
    made = build()
    np.savez_compressed(
        _FILE, **{name: v.astype(np.float32) for name, v in made._asdict().items()}
    )
